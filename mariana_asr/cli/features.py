"""``mariana-asr features``: features of a data directory."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import (
    allow_pipes_option,
    assignments_argument,
    existing_dir,
    jobs_option,
    new_path,
)
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.features.extract import extract_features
from mariana_asr.features.options import feature_options
from mariana_asr.options import assignment_tree


@click.command("features")
@click.argument("data", type=existing_dir)
@click.argument("out", type=new_path)
@click.option(
    "--beside",
    type=existing_dir,
    help="A data directory whose features come first in each frame, with the new ones after them: "
    "for a network that takes adapted features and others.",
)
@click.option("--compress", is_flag=True, help="Store 8 bits a value, as Kaldi's recipes do.")
@jobs_option
@allow_pipes_option
@assignments_argument("the features' options (the recipe's section `features`), such as type=fbank")
def command(
    data: Path,
    out: Path,
    beside: Path | None,
    compress: bool,
    jobs: int,
    allow_pipes: bool,
    assignments: tuple[str, ...],
) -> None:
    """Compute features and CMVN statistics of the data directory DATA into a new one, OUT."""
    summary = extract_features(
        read_data_dir(data),
        out,
        feature_options(assignment_tree(assignments)),
        beside=None if beside is None else read_data_dir(beside),
        compress=compress,
        jobs=jobs,
        allow_pipes=allow_pipes,
    )
    click.echo(f"{out}: {summary.describe()}")
