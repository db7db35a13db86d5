"""The command ``mariana-asr``."""

import logging

import click

from mariana_asr import __version__
from mariana_asr.cli.console import Commands
from mariana_asr.logs import start_logging


@click.group(
    cls=Commands,
    commands_in={
        "train": "train",
        "sweep": "sweep",
        "validate": "validate",
        "prepare": "prepare",
        "subset": "subset",
        "split": "split",
        "features": "features",
        "lang": "lang",
        "train-mono": "train_mono",
        "train-deltas": "train_deltas",
        "train-lda-mllt": "train_lda_mllt",
        "train-sat": "train_sat",
        "align": "align",
        "pronunciations": "pronunciations",
        "graph": "graph",
        "train-nnet": "train_nnet",
        "factor": "factor",
        "decode": "decode",
        "score": "score",
        "info": "info",
        "doctor": "doctor",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="mariana-asr")
@click.option("--verbose", is_flag=True, help="Also say what only a developer wants to know.")
def main(verbose: bool) -> None:
    """Train acoustic models for speech recognition, from recordings to a word error rate.

    `train` runs a whole recipe, `sweep` many variants of one. The other commands are a recipe's
    stages, one at a time, on Kaldi's directories; words of the form KEY=VALUE after their arguments
    set the options that the recipe's sections have.
    """
    start_logging(logging.DEBUG if verbose else logging.INFO)
