"""Lattices to train a network on: what it takes for possible in the utterances of a frame store.

As Kaldi's steps/nnet/make_denlats.sh makes them.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.decode.best_alignments import best_alignments
from mariana_asr.decode.graph import read_graph
from mariana_asr.decode.lattice import Lattice
from mariana_asr.decode.lattice_file import RawLattice
from mariana_asr.decode.options import Alignments, DecodeOptions
from mariana_asr.decode.scorers import Scorer, load_scorer
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.sequence.lattice import NO_CLASS, SequenceLattice
from mariana_asr.engine.sequence.lattice_store import LatticeStoreWriter
from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import write_json
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

SUMMARY_FILE = "lattices.json"
_UTTERANCES_A_LOG_LINE = 500


@dataclass(frozen=True)
class LatticeSummary:
    """What came of making lattices; ``lattices.json`` holds it.

    Attributes:
        utterances: Utterances with a lattice.
        skipped: Utterances without one.
        partial: Utterances whose search ended in no final state of the graph.
        frames: Frames of the lattices.
        arcs: Arcs of the lattices.
        frames_without_reference: Frames whose reference pdf is on no path of the lattice.
    """

    utterances: int
    skipped: int
    partial: int
    frames: int
    arcs: int
    frames_without_reference: int


@dataclass(frozen=True)
class _Found:
    """What a process sends back of an utterance: its lattice, or the reason why there is none."""

    number: int
    lattice: SequenceLattice | None = None
    reason: str = ""
    partial: bool = False
    frames_without_reference: int = 0


def make_training_lattices(
    frames: FrameStore,
    model_dir: str | Path,
    graph_dir: str | Path,
    out_dir: str | Path,
    options: DecodeOptions,
    *,
    alignments: Alignments = "best",
    jobs: int = 1,
) -> LatticeSummary:
    """Search a graph for the lattice of each utterance of a frame store.

    ``out_dir`` becomes a lattice store, with ``skipped.txt`` (the utterances without a lattice,
    with reasons) and ``lattices.json`` (counts).

    Args:
        frames: What the network was trained on, or held-out frames.
        model_dir: The network (``nnet.pt``) and its ``final.mdl``.
        graph_dir: A graph with all words that are to compete, best with a weak language model.
        out_dir: Where to write.
        options: Beams, and scales of acoustic scores and of priors.
        alignments: Whether a word sequence competes with its best alignment alone, as in Kaldi, or
            with all that are within the beam.
        jobs: Number of processes.

    Raises:
        FormatError: The model or the graph is damaged, or they do not belong together.
        StageError: There is a lattice of no utterance.
    """
    out_dir, model_dir, graph_dir = Path(out_dir), Path(model_dir), Path(graph_dir)
    scorer, graph = load_scorer(model_dir), read_graph(graph_dir)
    graph.check(len(scorer.pdf_of_transition_id))
    if scorer.front_end.dim != frames.dim:
        raise FormatError(
            f"the model takes {scorer.front_end.dim} values a frame, the frames have {frames.dim}",
            where=model_dir,
        )
    skipped, partial, missing, total, arcs = Skipped("lattices"), 0, 0, 0, 0
    names = frames.utterance_names(range(frames.num_utterances))
    done = parallel_map(
        _search,
        range(frames.num_utterances),
        jobs=jobs,
        setup=_set_up,
        setup_arguments=(frames.directory, model_dir, graph_dir, options, alignments),
    )
    try:
        with LatticeStoreWriter(out_dir, frames) as writer:
            for found in done:
                if found.number and found.number % _UTTERANCES_A_LOG_LINE == 0:
                    logger.info("lattices: %d of %d utterances", found.number, len(names))
                if found.lattice is None:
                    skipped.add(names[found.number], found.reason)
                    continue
                writer.add(found.number, found.lattice)
                partial += found.partial
                missing += found.frames_without_reference
                total += found.lattice.num_frames
                arcs += len(found.lattice.source)
    finally:
        _release()
    kept = len(names) - len(skipped)
    skipped.finish(out_dir / "skipped.txt", kept)
    summary = LatticeSummary(kept, len(skipped), partial, total, arcs, missing)
    write_json(out_dir / SUMMARY_FILE, vars(summary))
    logger.info(
        "lattices: %d utterances, %.1f arcs a frame; %d utterances reached no final state; the "
        "reference is on no path in %.2f%% of the frames",
        kept,
        arcs / total,
        partial,
        100 * missing / total,
    )
    return summary


def sequence_lattice(
    raw: RawLattice, pdf_of_transition_id: NDArray[np.integer], where: str
) -> SequenceLattice:
    """Make a lattice to train on of one that a decoder gave.

    Args:
        raw: The decoder's.
        pdf_of_transition_id: It begins with the pdf of transition id 1.
        where: The utterance, for messages.

    Raises:
        DataError: No path leads to a final state.
    """
    lattice = Lattice.from_raw(_with_one_end(raw, where))
    classes = np.append(NO_CLASS, pdf_of_transition_id)[lattice.transition_ids]
    return SequenceLattice(
        levels=lattice.levels.astype(np.int32),
        source=lattice.source.astype(np.int32),
        destination=lattice.destination.astype(np.int32),
        classes=classes.astype(np.int32),
        frames=lattice.state_frames[lattice.source].astype(np.int32),
        scores=-lattice.costs[:, 0].astype(np.float32),
    )


def _with_one_end(raw: RawLattice, where: str) -> RawLattice:
    """The paths from the start to a final state, with empty arcs from there to one end."""
    count, final = len(raw.final), np.flatnonzero(np.isfinite(raw.final).all(axis=1))
    source = np.append(raw.source, final).astype(np.int32)
    labels = np.zeros((len(source), 3), dtype=np.int32)
    labels[: len(raw.labels)] = raw.labels
    labels[len(raw.labels) :, 2] = count
    costs = np.concatenate([raw.costs, raw.final[final]])
    tails, heads = source.tolist(), labels[:, 2].tolist()
    useful = _reached(raw.start, tails, heads, count + 1)
    useful &= _reached(count, heads, tails, count + 1)
    if not useful[raw.start]:
        raise DataError("no path through the lattice reaches a final state", where=where)
    kept = np.flatnonzero(useful[source] & useful[labels[:, 2]])
    kept = kept[np.argsort(source[kept], kind="stable")]
    rank = np.cumsum(useful) - 1
    labels = labels[kept]
    labels[:, 2] = rank[labels[:, 2]]
    ends = np.full((int(useful.sum()), 2), np.inf, dtype=np.float32)
    ends[-1] = 0.0
    return replace(
        raw,
        start=int(rank[raw.start]),
        final=ends,
        source=rank[source[kept]].astype(np.int32),
        labels=labels,
        costs=costs[kept],
    )


def _reached(first: int, tails: list[int], heads: list[int], count: int) -> NDArray[np.bool_]:
    """Which states arcs lead to, one after the other, from a state."""
    following: list[list[int]] = [[] for _ in range(count)]
    for tail, head in zip(tails, heads, strict=True):
        following[tail].append(head)
    found = np.zeros(count, dtype=bool)
    found[first] = True
    waiting = [first]
    while waiting:
        for head in following[waiting.pop()]:
            if not found[head]:
                found[head] = True
                waiting.append(head)
    return found


@dataclass(frozen=True)
class _Searcher:
    """What each process loads once."""

    frames: FrameStore
    scorer: Scorer
    decoder: LatticeDecoder
    options: DecodeOptions
    alignments: Alignments


_searcher: _Searcher | None = None


def _set_up(
    frames_dir: Path,
    model_dir: Path,
    graph_dir: Path,
    options: DecodeOptions,
    alignments: Alignments,
) -> None:
    global _searcher
    scorer = load_scorer(model_dir, prior_scale=options.prior_scale)
    graph = read_graph(graph_dir)
    decoder = LatticeDecoder(graph, scorer.pdf_of_transition_id, options)
    frames = FrameStore.open(frames_dir)
    _searcher = _Searcher(frames, scorer, decoder, options, alignments)


def _release() -> None:
    """Let go of what was loaded, where everything ran in this process."""
    global _searcher
    _searcher = None


def _search(number: int) -> _Found:
    assert _searcher is not None, "parallel_map calls _set_up first"
    features, targets = _searcher.frames.read_utterance(number)
    pdfs = _searcher.scorer.pdf_of_transition_id
    try:
        scores = _searcher.scorer.log_likelihoods(features)
        raw, complete = _searcher.decoder.search(scores, "")
        if _searcher.alignments == "best":
            raw = best_alignments(
                Lattice.from_raw(raw),
                acoustic_scale=_searcher.options.acoustic_scale,
                beam=_searcher.options.lattice_beam,
            )
        lattice = sequence_lattice(raw, pdfs, "")
        if lattice.num_frames != len(targets):
            raise DataError(f"a lattice of {lattice.num_frames} frames for {len(targets)}")
    except DataError as error:
        return _Found(number, reason=error.what)
    frames = lattice.frames[lattice.emitting]
    right = frames[lattice.classes[lattice.emitting] == targets[frames]]
    missing = len(targets) - len(np.unique(right))
    return _Found(number, lattice, "", not complete, missing)
