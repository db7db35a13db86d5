"""``mariana-asr prepare``: a published corpus as Kaldi data directories."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import assignments_argument, new_path
from mariana_asr.corpus.prepare import PREPARERS, prepare_corpus, preparer_options


@click.command("prepare")
@click.argument("corpus", type=click.Choice(sorted(PREPARERS)))
@click.argument("out", type=new_path)
@assignments_argument("the preparer's options (the recipe's section `corpus`)")
def command(corpus: str, out: Path, assignments: tuple[str, ...]) -> None:
    """Prepare CORPUS: data directories OUT/train, OUT/dev, OUT/test and the dictionary OUT/dict."""
    prepare_corpus(preparer_options(corpus, assignments), out)
