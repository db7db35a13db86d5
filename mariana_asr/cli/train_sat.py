"""``mariana-asr train-sat``: speaker-adapted triphones."""

from pathlib import Path

import click

from mariana_asr.align.training.sat import SatOptions, train_sat
from mariana_asr.cli.arguments import assignments_argument, existing_dir, jobs_option, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("train-sat")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("ali", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("the options of the recipe's section `align.tri3`")
def command(
    data: Path, lang: Path, ali: Path, out: Path, jobs: int, assignments: tuple[str, ...]
) -> None:
    """Train triphones on DATA, adapted to each speaker by fMLLR, into OUT, on top of ALI."""
    options = options_from_assignments(SatOptions, assignments)
    train_sat(read_data_dir(data), read_lang(lang), ali, options, out, jobs=jobs)
