"""``mariana-asr info``: what is in a file or folder."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import existing_path
from mariana_asr.recipe.describe import describe


@click.command("info")
@click.argument("path", type=existing_path)
def command(path: Path) -> None:
    """Say what is in PATH: an experiment, a model, a data directory, an archive, a checkpoint."""
    kind, facts = describe(path)
    click.echo(f"{path}: {kind}")
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        click.echo(f"  {name:<{width}}  {value}")
