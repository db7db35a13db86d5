"""Parts of a data directory: by utterance, by speaker, and held-out speakers.

Everything is deterministic: the same arguments always give the same parts.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, summarise


def subset_by_utterances(
    data: DataDir, n_or_ids: int | Iterable[str], path: Path | None = None
) -> DataDir:
    """Keep some utterances: those named, or ``n`` spread evenly over the sorted list.

    Spreading, as Kaldi's subset_data_dir.sh does, brings in every part of a corpus whose ids
    begin with the speaker.

    Raises:
        DataError: There are fewer than ``n`` utterances, or an id is unknown.
    """
    utterances = data.utterances
    if isinstance(n_or_ids, int):
        return data.subset(_spread(utterances, n_or_ids, "utterances", data), path)
    wanted = list(n_or_ids)
    _require_known(wanted, data.utt2spk.keys(), "utterances", data)
    return data.subset(wanted, path)


def subset_by_speakers(
    data: DataDir, n_or_names: int | Iterable[str], path: Path | None = None
) -> DataDir:
    """Keep all utterances of some speakers: those named, or ``n`` spread over the sorted list.

    Raises:
        DataError: There are fewer than ``n`` speakers, or a name is unknown.
    """
    speakers = data.spk2utt
    if isinstance(n_or_names, int):
        chosen = set(_spread(list(speakers), n_or_names, "speakers", data))
    else:
        chosen = set(n_or_names)
        _require_known(sorted(chosen), speakers.keys(), "speakers", data)
    return data.subset((u for s in chosen for u in speakers[s]), path)


def split_by_utterance(data: DataDir, n: int) -> list[DataDir]:
    """Split into ``n`` runs of the sorted utterances whose lengths differ by one at most.

    Raises:
        DataError: There are fewer than ``n`` utterances.
    """
    utterances = data.utterances
    _require_enough(n, len(utterances), "utterances", data)
    bounds = [len(utterances) * part // n for part in range(n + 1)]
    return [data.subset(utterances[bounds[p] : bounds[p + 1]]) for p in range(n)]


def split_by_speaker(data: DataDir, n: int) -> list[DataDir]:
    """Split into ``n`` parts without separating a speaker, about equal in utterances.

    Speakers are dealt out from the one with the most utterances to the one with the fewest, each
    to the part that has the fewest so far (Graham's longest-processing-time rule: the largest
    part is at most 4/3 of the least possible).

    Raises:
        DataError: There are fewer than ``n`` speakers.
    """
    speakers = data.spk2utt
    _require_enough(n, len(speakers), "speakers", data)
    parts: list[list[str]] = [[] for _ in range(n)]
    fill = [(0, part) for part in range(n)]
    for speaker in sorted(speakers, key=lambda s: (-len(speakers[s]), s)):
        count, part = heapq.heappop(fill)
        parts[part] += speakers[speaker]
        heapq.heappush(fill, (count + len(speakers[speaker]), part))
    return [data.subset(utterances) for utterances in parts]


def hold_out_speakers(
    data: DataDir, speakers: Sequence[str] | float, seed: int = 0
) -> tuple[DataDir, DataDir]:
    """Set some speakers aside, so that no held-out voice is trained on.

    Args:
        data: The data directory.
        speakers: Their names, or the fraction of speakers to draw, between 0 and 1; at least
            one is drawn.
        seed: Seed of the draw.

    Returns:
        The data to train on, and the held-out data.

    Raises:
        DataError: A name is unknown, the fraction is not between 0 and 1, or nothing would be
            left on one side.
    """
    known = data.spk2utt
    if isinstance(speakers, str):
        speakers = [speakers]
    if isinstance(speakers, int | float):
        if not 0 < speakers < 1:
            raise DataError(
                f"cannot hold out a fraction of {speakers:g} of the speakers",
                where=data.path,
                remedy="Give a fraction between 0 and 1, or a list of names",
            )
        count = max(1, round(speakers * len(known)))
        held = set(random.Random(seed).sample(list(known), min(count, len(known))))
    else:
        held = set(speakers)
        _require_known(sorted(held), known.keys(), "speakers", data)
    if not held or len(held) == len(known):
        raise DataError(
            f"holding out {len(held)} of {len(known)} speakers leaves one side empty",
            where=data.path,
            remedy="Hold out fewer or more speakers, or give a development set of its own",
        )
    held_out = {utterance for speaker in held for utterance in known[speaker]}
    return data.subset(data.utt2spk.keys() - held_out), data.subset(held_out)


def _spread(items: list[str], n: int, what: str, data: DataDir) -> list[str]:
    _require_enough(n, len(items), what, data)
    return [items[place * len(items) // n] for place in range(n)]


def _require_enough(n: int, present: int, what: str, data: DataDir) -> None:
    if not 1 <= n <= present:
        raise DataError(
            f"{n} {what} or parts asked of {present} {what}",
            where=data.path,
            remedy=f"Give a number from 1 to {present}",
        )


def _require_known(wanted: Iterable[str], known: Iterable[str], what: str, data: DataDir) -> None:
    all_known = set(known)
    unknown = [name for name in wanted if name not in all_known]
    if unknown:
        raise DataError(
            f"unknown {what}: {summarise(unknown)}",
            where=data.path,
            remedy=f"Known are {summarise(sorted(all_known), 50)}",
        )
