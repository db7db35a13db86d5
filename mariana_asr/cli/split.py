"""``mariana-asr split``: a data directory in parts."""

from dataclasses import replace
from pathlib import Path

import click

from mariana_asr.cli.arguments import existing_dir, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.subset import split_by_speaker, split_by_utterance


@click.command("split")
@click.argument("data", type=existing_dir)
@click.argument("n", type=click.IntRange(min=1))
@click.argument("out", type=new_path)
@click.option(
    "--by",
    type=click.Choice(["speaker", "utterance"]),
    default="speaker",
    show_default=True,
    help="What is never cut in two.",
)
def command(data: Path, n: int, out: Path, by: str) -> None:
    """Split the data directory DATA into N about equal ones, OUT/1 to OUT/N."""
    split = split_by_speaker if by == "speaker" else split_by_utterance
    for number, part in enumerate(split(read_data_dir(data), n), 1):
        replace(part, path=out / str(number)).write()
        click.echo(f"{out / str(number)}: {len(part.utt2spk)} utterances")
