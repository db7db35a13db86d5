"""Training graphs: the HMM states that a transcript allows, as a transducer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldi_hmm_gmm, kaldifst
from mariana_asr.lang.fst_arrays import from_fst, read_fst, to_fst
from mariana_asr.lang.langdir import Lang


@dataclass(frozen=True)
class TrainingGraph:
    """The paths through the HMMs that a transcript allows, without transition probabilities.

    Attributes:
        fst: kaldifst.StdVectorFst; input label i stands for transition id ``tids[i - 1]``.
        tids: The transition ids that occur, shape (n,). A score matrix needs a column for each of
            these only, however many the model has.
    """

    fst: Any
    tids: NDArray[np.int32]

    def min_frames(self) -> int:
        """Length of the shortest path, in frames."""
        arcs = from_fst(self.fst)
        cost = (arcs.ilabel != 0).astype(np.int64)
        far = np.iinfo(np.int64).max // 2
        distance = np.full(arcs.num_states, far)
        distance[arcs.start] = 0
        while True:
            nearer = distance.copy()
            np.minimum.at(nearer, arcs.target, distance[arcs.source] + cost)
            if (nearer == distance).all():
                return int(distance[np.isfinite(arcs.final)].min())
            distance = nearer

    def equal_alignment(self, frames: int, seed: int) -> NDArray[np.int32] | None:
        """Transition ids that share frames out equally over a random path, shape (frames,).

        None where no path is short enough (Kaldi: align-equal-compiled).
        """
        # The wheel takes a signed integer of 32 bits.
        signed = (seed + 2**31) % 2**32 - 2**31
        aligned, path = kaldifst.equal_align(self.fst, frames, signed)
        if not aligned:
            return None
        labels = kaldifst.get_linear_symbol_sequence(path)[1]
        return self.tids[np.asarray(labels) - 1]


class GraphCompiler:
    """Makes training graphs from transcripts (Kaldi: compile-train-graphs)."""

    def __init__(
        self, transition_model: TransitionModel, tree: ContextDependency, lang: Lang
    ) -> None:
        """Prepare the lexicon for a tree and a transition model.

        Raises:
            FormatError: ``L.fst`` is missing or damaged, or tree and model do not fit.
        """
        if tree.num_pdfs != transition_model.num_pdfs:
            raise FormatError(
                f"the tree has {tree.num_pdfs} pdfs, the transition model "
                f"{transition_model.num_pdfs}",
                remedy="Take tree and final.mdl from the same directory",
            )
        # Transition probabilities change with every iteration; they join at the alignment.
        options = kaldi_hmm_gmm.TrainingGraphCompilerOptions(
            transition_scale=0.0, self_loop_scale=0.0
        )
        # The compiler only refers to them; without this they would be gone when it runs.
        self._kept_alive = (transition_model, tree)
        self._compiler = kaldi_hmm_gmm.TrainingGraphCompiler(
            transition_model, tree, read_fst(lang.path / "L.fst"), lang.disambig_phones, options
        )

    def compile(self, words: Sequence[int]) -> TrainingGraph:
        """Compile the graph of a transcript, given as word ids.

        Raises:
            DataError: The transcript is empty, or the lexicon cannot say it.
        """
        if not words:
            raise DataError("empty transcript")
        try:
            fst = self._compiler.compile_graph_from_text(list(words))
        except RuntimeError as error:
            if "phone2word_fst" in str(error):
                what = "a word of the transcript has no pronunciation"
            else:
                what = str(error).strip().splitlines()[-1]
            raise DataError(f"no graph: {what}") from error
        if fst.start < 0:
            raise DataError("no graph: the lexicon or the tree allows no path")
        arcs = from_fst(fst)
        tids, labels = np.unique(np.append(arcs.ilabel, 0), return_inverse=True)
        # Epsilon is the smallest label, so it stays 0 and the others count from 1.
        fst = to_fst(replace(arcs, ilabel=labels[:-1].astype(np.int32)))
        return TrainingGraph(fst, tids[1:].astype(np.int32))


def write_graphs(prefix: Path, graphs: Iterable[tuple[str, TrainingGraph]]) -> None:
    """Write graphs to ``PREFIX.fsts`` (a Kaldi archive) and ``PREFIX.npz``.

    Raises:
        OSError: They cannot be written.
    """
    tids = {}
    try:
        writer = kaldifst.VectorFstWriter(f"ark:{prefix}.fsts")
        for utterance, graph in graphs:
            writer.write(utterance, graph.fst)
            tids[utterance] = graph.tids
        writer.close()
    except RuntimeError as error:
        # The wheel does not say why.
        raise OSError(f"writing {prefix}.fsts failed") from error
    counts = [len(values) for values in tids.values()]
    np.savez(
        f"{prefix}.npz", tids=np.concatenate([*tids.values(), np.empty(0, np.int32)]), counts=counts
    )


def read_graphs(prefix: Path) -> Iterator[tuple[str, TrainingGraph]]:
    """Read what ``write_graphs`` wrote."""
    arrays = np.load(f"{prefix}.npz")
    tids = iter(np.split(arrays["tids"], np.cumsum(arrays["counts"])[:-1].astype(int)))
    reader = kaldifst.SequentialVectorFstReader(f"ark:{prefix}.fsts")
    while not reader.done:
        # Without a copy the FST would go with the reader's next step.
        yield reader.key, TrainingGraph(reader.value.copy(), next(tids))
        reader.next()
    reader.close()
