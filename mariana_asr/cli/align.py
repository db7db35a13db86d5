"""``mariana-asr align``: forced alignment of a data directory."""

from pathlib import Path

import click

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.cli.arguments import (
    assignments_argument,
    existing_dir,
    existing_path,
    jobs_option,
    new_path,
)
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.decode.scorers import load_network
from mariana_asr.features.linear import require_speaker_transforms
from mariana_asr.lang.langdir import read_lang
from mariana_asr.options import options_from_assignments


@click.command("align")
@click.argument("data", type=existing_dir)
@click.argument("lang", type=existing_dir)
@click.argument("model", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@click.option(
    "--transforms",
    type=existing_path,
    help="The speakers' fMLLR transforms, where they are known: a directory with trans.* or an "
    "archive. By default they are estimated in a first pass.",
)
@assignments_argument(
    "the options of the recipe's section `align.labels`, such as beam=10 or "
    "formats=[ctm,textgrid,json]"
)
def command(
    data: Path,
    lang: Path,
    model: Path,
    out: Path,
    jobs: int,
    transforms: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Align the transcripts of DATA with MODEL into OUT.

    MODEL is a folder of GMMs (ours or Kaldi's, speaker-adapted ones too) or of a network. OUT gets
    Kaldi's alignments (ali.1.gz), words and phones with their times, a score for each utterance,
    and lists of utterances that look wrong (suspects.txt) or failed (skipped.txt).
    """
    options = options_from_assignments(AlignOptions, assignments)
    known = None if transforms is None else require_speaker_transforms(transforms)
    summary = align(
        read_data_dir(data),
        read_lang(lang),
        model,
        out,
        options,
        jobs=jobs,
        acoustic_model=load_network(model, prior_scale=options.prior_scale),
        transforms=known,
    )
    click.echo(
        f"{out}: {summary.utterances} utterances aligned, {summary.skipped} failed, "
        f"{summary.suspects} look suspicious"
    )
