"""``mariana-asr align``: forced alignment of a data directory."""

from pathlib import Path

import click

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.cli.arguments import assignments_argument, existing_dir, jobs_option, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("align")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("model", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("the options of the recipe's section `align.held_out`, such as beam=10")
def command(
    data: Path, lang: Path, model: Path, out: Path, jobs: int, assignments: tuple[str, ...]
) -> None:
    """Align the transcripts of DATA with MODEL into OUT: transition ids, as Kaldi writes them."""
    options = options_from_assignments(AlignOptions, assignments)
    align(read_data_dir(data), read_lang(lang), model, out, options, jobs=jobs)
