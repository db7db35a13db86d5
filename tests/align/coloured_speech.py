"""Made-up speech whose phones depend on their neighbours and on who speaks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from made_speech import DIM, PHONES, Made, write_data_dir

from mariana_asr.features.transform import TransformOptions

PLAIN = TransformOptions(cmvn="none", norm_means=False)
SPLICED = PLAIN.model_copy(update={"splice_left": 2, "splice_right": 2})


@dataclass
class Coloured(Made):
    """Besides ``Made``: what each speaker's features went through, affine, (DIM, DIM + 1)."""

    distortions: dict[str, np.ndarray]


def coloured(made: Made, folder: Path, *, colour: float = 0.0, apart: float = 0.0) -> Coloured:
    """Say what ``made`` says anew.

    Args:
        made: Transcripts, speakers, and the phone of each frame.
        folder: Where the data directory goes.
        colour: How far phones are moved by the phone before them; silence is not.
        apart: How much speakers differ.
    """
    random = np.random.default_rng(1)
    means = random.normal(size=(len(PHONES), DIM)) * 6
    moved = random.normal(size=(len(PHONES), len(PHONES), DIM)) * colour
    moved[PHONES.index("SIL")] = 0
    distortions = {
        speaker: np.column_stack(
            [
                np.eye(DIM) + 0.1 * apart * random.normal(size=(DIM, DIM)),
                1.5 * apart * random.normal(size=DIM),
            ]
        )
        for speaker in sorted(set(made.data.utt2spk.values()))
    }
    feats = {}
    for utterance, phones in made.truth.items():
        before = phones_before(phones)
        frames = means[phones] + moved[phones, before] + random.normal(size=(len(phones), DIM))
        matrix = distortions[made.data.utt2spk[utterance]]
        feats[utterance] = (frames @ matrix[:, :DIM].T + matrix[:, DIM]).astype(np.float32)
    data = write_data_dir(folder, feats, made.data.text, made.data.utt2spk)
    return Coloured(data, made.lang, made.truth, distortions)


def phones_before(phones: np.ndarray) -> np.ndarray:
    """For each frame the phone before the one it is in; silence at the beginning."""
    starts = np.append(0, np.flatnonzero(np.diff(phones)) + 1)
    lengths = np.diff(np.append(starts, len(phones)))
    return np.repeat(np.append(PHONES.index("SIL"), phones[starts[:-1]]), lengths)
