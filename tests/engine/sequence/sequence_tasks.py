"""Small tasks of sequence training."""

from pathlib import Path

import numpy as np
from made_sequences import lattice_of

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.sequence.lattice_store import LatticeStore, write_lattices
from mariana_asr.engine.sequence.source import LatticeData

DIM, CLASSES = 5, 6
RUN = 4
"""Frames for which a path keeps its class."""


def sausage(rng, classes, count=3):
    """A lattice whose paths change their class every RUN frames, the right one among ``count``."""
    frames, arcs, state, states = len(classes), [], 0, 1
    for begin in range(0, frames, RUN):
        end = min(begin + RUN, frames)
        others = rng.permutation(np.delete(np.arange(CLASSES), classes[begin]))[: count - 1]
        middle = states
        states += count * (end - begin - 1)
        after, states = states, states + 1
        for way, label in enumerate([int(classes[begin]), *others.tolist()]):
            inner = [middle + way * (end - begin - 1) + k for k in range(end - begin - 1)]
            ways = [state, *inner, after]
            score = rng.normal(scale=0.3)
            for place, frame in enumerate(range(begin, end)):
                arcs.append((ways[place], ways[place + 1], label, frame, score if not place else 0))
        state = after
    return lattice_of(states, arcs)


def make_data(folder: Path, *, seed: int, utterances: int) -> LatticeData:
    """Noisy frames of classes that last, with lattices; utterances 1, 8, 15 ... have none."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM))
    rng = np.random.default_rng(seed)
    truth = []

    def made():
        for number in range(utterances):
            classes = rng.integers(CLASSES, size=int(rng.integers(2, 9))).repeat(RUN)
            truth.append(classes)
            noise = rng.standard_normal((len(classes), DIM))
            yield f"utt{number}", (centres[classes] + 1.5 * noise).astype(np.float32), classes

    frames = pack_frames(folder / "frames", made(), num_outputs=CLASSES)
    kept = [number for number in range(utterances) if number % 7 != 1]
    lattices = write_lattices(
        folder / "lattices", frames, ((n, sausage(rng, truth[n])) for n in kept)
    )
    return LatticeData(frames, lattices)


def open_data(frames: Path, lattices: Path) -> LatticeData:
    """The same, in another process."""
    return LatticeData(FrameStore.open(frames), LatticeStore.open(lattices))
