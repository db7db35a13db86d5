"""``mariana-asr score``: error rates of hypotheses."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import existing_dir, existing_path
from mariana_asr.corpus.datadir import DataDir, read_data_dir, read_table
from mariana_asr.errors import DataError
from mariana_asr.score.error_counts import score_texts
from mariana_asr.score.results import UNITS, Metric, kaldi_line
from mariana_asr.score.tuning import score_decodes


@click.command("score")
@click.argument("reference", type=existing_path)
@click.argument("hypothesis", type=existing_path)
@click.option(
    "--metric", type=click.Choice(list(UNITS)), default="wer", show_default=True, help="Error rate."
)
@click.option(
    "--dev",
    nargs=2,
    type=existing_dir,
    help="Data directory and decoding of the dev set, on which weights are chosen.",
)
def command(
    reference: Path, hypothesis: Path, metric: Metric, dev: tuple[Path, Path] | None
) -> None:
    """Score HYPOTHESIS against REFERENCE.

    HYPOTHESIS is a text file (`utterance word word ...` lines) or a folder that `decode` made;
    REFERENCE is a text file or a data directory.
    """
    if hypothesis.is_file():
        texts = read_data_dir(reference).text if reference.is_dir() else read_table(reference)
        counts = score_texts(texts, read_table(hypothesis), UNITS[metric])
        click.echo(kaldi_line(counts, str(hypothesis), metric))
        return
    tuned = (dev[1], read_data_dir(dev[0])) if dev else None
    name = hypothesis.name
    decoded = {name: (hypothesis, _references(reference))}
    for result in score_decodes(hypothesis.parent.name, tuned, decoded, (metric,)):
        click.echo(kaldi_line(result.counts, result.name, metric))


def _references(path: Path) -> DataDir:
    if path.is_file():
        raise DataError(
            "a folder of hypotheses is scored against a data directory, not a file", where=path
        )
    return read_data_dir(path)
