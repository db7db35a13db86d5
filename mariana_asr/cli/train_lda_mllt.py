"""``mariana-asr train-lda-mllt``: triphones on LDA+MLLT features."""

from pathlib import Path

import click

from mariana_asr.align.training.lda_mllt import LdaMlltOptions, train_lda_mllt
from mariana_asr.cli.arguments import assignments_argument, existing_dir, jobs_option, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("train-lda-mllt")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("ali", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("the options of the recipe's section `align.tri2`")
def command(
    data: Path, lang: Path, ali: Path, out: Path, jobs: int, assignments: tuple[str, ...]
) -> None:
    """Train triphones on LDA+MLLT features of DATA into OUT, from the alignments in ALI."""
    options = options_from_assignments(LdaMlltOptions, assignments)
    train_lda_mllt(read_data_dir(data), read_lang(lang), ali, options, out, jobs=jobs)
