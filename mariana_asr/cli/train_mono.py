"""``mariana-asr train-mono``: a monophone GMM-HMM."""

from pathlib import Path

import click

from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.cli.arguments import assignments_argument, existing_dir, jobs_option, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("train-mono")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("the options of the recipe's section `align.mono`")
def command(data: Path, lang: Path, out: Path, jobs: int, assignments: tuple[str, ...]) -> None:
    """Train a monophone system on DATA (with features) and LANG into OUT, alignments with it."""
    options = options_from_assignments(MonoOptions, assignments)
    train_mono(read_data_dir(data), read_lang(lang), options, out, jobs=jobs)
