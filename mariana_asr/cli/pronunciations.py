"""``mariana-asr pronunciations``: probabilities of pronunciations and silence, from alignments."""

from pathlib import Path

import click

from mariana_asr.align.pronunciations.probabilities import (
    PronunciationOptions,
    learn_pronunciations,
)
from mariana_asr.cli.arguments import (
    assignments_argument,
    existing_dir,
    existing_path,
    jobs_option,
    new_path,
)
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("pronunciations")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("ali", type=existing_dir)
@click.argument("dictionary", metavar="DICT", type=existing_path)
@click.argument("out", type=new_path)
@jobs_option
@assignments_argument("max_normalize and silence, both true by default")
def command(
    data: Path,
    lang: Path,
    ali: Path,
    dictionary: Path,
    out: Path,
    jobs: int,
    assignments: tuple[str, ...],
) -> None:
    """Learn how words are said, and where silence stands, from the alignment ALI of DATA.

    Writes OUT, a copy of the dictionary DICT (which LANG was made of) with probabilities of
    pronunciations and of silence beside each word. `mariana-asr lang OUT NEW_LANG` makes a lang
    directory of it, which fits the same model.
    """
    options = options_from_assignments(PronunciationOptions, assignments)
    learn_pronunciations(
        read_data_dir(data), read_lang(lang), ali, dictionary, out, options, jobs=jobs
    )
