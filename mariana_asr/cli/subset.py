"""``mariana-asr subset``: a part of a data directory."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import existing_dir, new_path
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.subset import subset_by_speakers, subset_by_utterances
from mariana_asr.errors import RecipeError


@click.command("subset")
@click.argument("data", type=existing_dir)
@click.argument("out", type=new_path)
@click.option("--utterances", type=click.IntRange(min=1), help="Keep so many, spread evenly.")
@click.option("--speakers", help="Keep these speakers: NAME,NAME,... or how many.")
def command(data: Path, out: Path, utterances: int | None, speakers: str | None) -> None:
    """Write some utterances of the data directory DATA to a new one, OUT."""
    if (utterances is None) == (speakers is None):
        raise RecipeError("give either --utterances or --speakers", where="command line")
    whole = read_data_dir(data)
    if utterances is not None:
        part = subset_by_utterances(whole, utterances, out)
    else:
        assert speakers is not None
        chosen = int(speakers) if speakers.isdecimal() else speakers.split(",")
        part = subset_by_speakers(whole, chosen, out)
    part.write()
    click.echo(f"{out}: {len(part.utt2spk)} utterances of {len(part.spk2utt)} speakers")
