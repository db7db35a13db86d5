"""How many wrong transcripts the report of suspicious utterances finds.

python scripts/bench_suspects.py DATA LANG MODEL --json suspects.json

Makes some transcripts of a data directory wrong in one way at a time, aligns all of it with a
model that was trained before, and counts which of them are reported. Utterances that are reported
though nothing was done to them may still be bad ones of the corpus itself.
"""

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from benchmark_record import begin_record, finish_record, markdown_table

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.align.output.suspects import SUSPECTS_JSON
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.parallel import available_cores

Change = Callable[[list[str], random.Random, list[str]], list[str]]


def _delete(words: list[str], generator: random.Random, _: list[str]) -> list[str]:
    at = generator.randrange(len(words))
    return words[:at] + words[at + 1 :]


def _insert(words: list[str], generator: random.Random, vocabulary: list[str]) -> list[str]:
    at = generator.randrange(len(words) + 1)
    return [*words[:at], generator.choice(vocabulary), *words[at:]]


def _substitute(words: list[str], generator: random.Random, vocabulary: list[str]) -> list[str]:
    at = generator.randrange(len(words))
    other = generator.choice([word for word in vocabulary if word != words[at]])
    return [*words[:at], other, *words[at + 1 :]]


ERRORS: dict[str, Change] = {
    "a word left out": _delete,
    "a word too many": _insert,
    "a wrong word": _substitute,
}
"""What is done to the words of one transcript."""
EXCHANGED = "another utterance's transcript"
NOTHING = "nothing"


def wrong_transcripts(data: DataDir, kind: str, count: int, seed: int) -> dict[str, str]:
    """Make so many transcripts wrong; returns these only."""
    generator = random.Random(seed)
    vocabulary = sorted({word for text in data.text.values() for word in text.split()})
    if kind == NOTHING:
        return {}
    if kind == EXCHANGED:
        chosen = generator.sample(sorted(data.text), count + 1)
        moved = dict(zip(chosen, (data.text[u] for u in (*chosen[1:], chosen[0])), strict=True))
        return {u: text for u, text in list(moved.items())[:count] if text != data.text[u]}
    long_enough = [u for u in sorted(data.text) if len(data.text[u].split()) > 1]
    return {
        utterance: " ".join(ERRORS[kind](data.text[utterance].split(), generator, vocabulary))
        for utterance in generator.sample(long_enough, count)
    }


def find(
    data: DataDir, lang: Lang, model: Path, wrong: dict[str, str], jobs: int
) -> dict[str, Any]:
    """Align with some transcripts wrong, and count those found."""
    with tempfile.TemporaryDirectory() as folder:
        spoiled = replace(data, text=data.text | wrong)
        align(spoiled, lang, model, folder, AlignOptions(formats=()), jobs=jobs)
        tree = json.loads((Path(folder) / SUSPECTS_JSON).read_text())
    suspects = [suspect["utterance"] for suspect in tree["suspects"]]
    return {
        "wrong": len(wrong),
        "found": len(wrong.keys() & set(suspects)),
        "among_the_first": len(wrong.keys() & set(suspects[: len(wrong)])),
        "others_reported": len(set(suspects) - wrong.keys()),
        "utterances": len(data.utt2spk),
    }


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, path_type=Path))
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=20, show_default=True, help="Transcripts to make wrong.")
@click.option("--seed", default=0, show_default=True, help="Chooses them.")
@click.option("--jobs", type=int, default=available_cores, show_default="all cores")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def main(
    data: Path, lang: Path, model: Path, count: int, seed: int, jobs: int, json_file: Path | None
) -> None:
    """Count how many wrong transcripts of DATA are found with LANG and MODEL."""
    settings = {"data": data.name, "model": model.name, "count": count, "seed": seed}
    record = begin_record("suspects", settings)
    directory, lexicon = read_data_dir(data), read_lang(lang)
    figures: dict[str, dict[str, Any]] = {}
    for kind in (NOTHING, EXCHANGED, *ERRORS):
        wrong = wrong_transcripts(directory, kind, count, seed)
        figures[kind] = find(directory, lexicon, model, wrong, jobs)
    header = ("what is wrong", "transcripts", "found", "among the first", "others reported")
    rows = [
        (kind, f["wrong"], f["found"], f["among_the_first"], f["others_reported"])
        for kind, f in figures.items()
    ]
    click.echo(markdown_table(header, rows))
    if json_file is not None:
        finish_record(json_file, record, {"figures": figures})


if __name__ == "__main__":
    main()
