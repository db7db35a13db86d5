"""``mariana-asr train-deltas``: triphones on features with deltas."""

from pathlib import Path

import click

from mariana_asr.align.training.triphone import DeltasOptions, train_deltas
from mariana_asr.cli.arguments import assignments_argument, existing_dir, jobs_option, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("train-deltas")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("ali", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("the options of the recipe's section `align.tri1`")
def command(
    data: Path, lang: Path, ali: Path, out: Path, jobs: int, assignments: tuple[str, ...]
) -> None:
    """Train triphones with deltas on DATA and LANG into OUT, from the alignments in ALI."""
    options = options_from_assignments(DeltasOptions, assignments)
    train_deltas(read_data_dir(data), read_lang(lang), ali, options, out, jobs=jobs)
