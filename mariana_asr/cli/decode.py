"""``mariana-asr decode``: hypotheses for a data directory."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import (
    assignments_argument,
    existing_dir,
    existing_path,
    jobs_option,
    new_path,
)
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.decode.decoder import decode
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.features.linear import require_speaker_transforms
from mariana_asr.options import options_from_assignments


@click.command("decode")
@click.argument("data", type=existing_dir)
@click.argument("model", type=existing_dir)
@click.argument("graph", type=existing_dir)
@click.argument("out", type=new_path)
@jobs_option
@click.option(
    "--transform-dir",
    type=existing_path,
    help="The speakers' fMLLR transforms, for a network on adapted features: where this command "
    "has decoded the same data with the speaker-adapted GMMs, or an archive.",
)
@assignments_argument("the options of the recipe's section `decode`, such as beam=13")
def command(
    data: Path,
    model: Path,
    graph: Path,
    out: Path,
    jobs: int,
    transform_dir: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Decode DATA (with features) with MODEL and GRAPH.

    OUT/hyp gets one file of hypotheses for each language-model weight and insertion penalty.
    """
    options = options_from_assignments(DecodeOptions, assignments)
    known = None if transform_dir is None else require_speaker_transforms(transform_dir)
    summary = decode(read_data_dir(data), model, graph, out, options, jobs=jobs, transforms=known)
    click.echo(
        f"{out}: {summary.decoded} of {summary.utterances} utterances decoded, "
        f"real-time factor {summary.rtf:.4f}"
    )
