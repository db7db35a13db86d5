"""``mariana-asr lang``: a lang directory from a dictionary, with its grammar."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import assignments_argument, existing_path, new_path
from mariana_asr.corpus.datadir import read_table
from mariana_asr.options import options_from_assignments
from mariana_asr.recipe.language import make_lang
from mariana_asr.recipe.schema import LangSection


@click.command("lang")
@click.argument("lexicon", type=existing_path)
@click.argument("out", type=new_path)
@click.option(
    "--text",
    type=existing_path,
    help="Kaldi text of transcripts, which an n-gram model is trained on.",
)
@assignments_argument(
    "the options of the recipe's section `lang`, such as lm.type=ngram lm.order=3"
)
def command(lexicon: Path, out: Path, text: Path | None, assignments: tuple[str, ...]) -> None:
    """Make the lang directory OUT, with G.fst, from LEXICON.

    LEXICON is a lexicon.txt or a directory in Kaldi's dict form.
    """
    sentences = read_table(text).values() if text else ()
    make_lang(options_from_assignments(LangSection, assignments), lexicon, sentences, out)
