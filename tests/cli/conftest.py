"""What tests of commands share: words made of tones, and a monophone system of them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from invoking import succeeded

RATE = 16000
TONES = {"A": (500, 1500), "B": (900, 2500), "D": (300, 3500), "O": (700, 1000)}
WORDS = {"ba": "B A", "do": "D O", "ado": "A D O", "bod": "B O D"}


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    yield
    logging.getLogger("mariana_asr").handlers.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``feats`` and ``lang``, and a monophone system, ``mono``."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "data"
    data.mkdir()
    random = np.random.default_rng(0)
    text = {}
    for number in range(16):
        utterance = f"{('ann', 'bob')[number // 8]}-{number:02}"
        words = random.choice(list(WORDS), size=6).tolist()
        pieces = [np.zeros(RATE // 8)]
        for word in words:
            for phone in WORDS[word].split():
                time = np.arange(int(random.integers(RATE // 16, RATE // 8))) / RATE
                pieces += [sum(np.sin(2 * np.pi * pitch * time) for pitch in TONES[phone]) / 8]
            pieces += [np.zeros(RATE // 16)]
        audio = np.concatenate(pieces)
        audio += random.normal(0, 0.002, len(audio))
        soundfile.write(data / f"{utterance}.wav", audio, RATE)
        text[utterance] = " ".join(words)
    (data / "wav.scp").write_text("".join(f"{u} {data / u}.wav\n" for u in text))
    (data / "text").write_text("".join(f"{u} {words}\n" for u, words in text.items()))
    (data / "utt2spk").write_text("".join(f"{u} {u[:3]}\n" for u in text))
    (folder / "lexicon.txt").write_text("".join(f"{w} {p}\n" for w, p in WORDS.items()))
    succeeded("features", data, folder / "feats", "-j", 1)
    succeeded(
        "lang", folder / "lexicon.txt", folder / "lang", "lm.type=word_loop",
        "position_dependent_phones=false",
    )  # fmt: skip
    mono = ("num_iters=6", "max_iter_inc=4", "totgauss=40", "realign_iters=[1,2,3,4]")
    succeeded("train-mono", folder / "feats", folder / "lang", folder / "mono", "-j", 1, *mono)
    return folder
