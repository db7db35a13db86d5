"""Alignments of one model made alignments of another with another tree."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import NO_PDF, TransitionModel
from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.align.transition_ids import check_transition_ids
from mariana_asr.align.tree.phones import PhoneTable, split_into_phones
from mariana_asr.errors import DataError, FormatError, summarise


class AlignmentConverter:
    """Takes alignments over to a new model and tree, frame for frame (Kaldi: convert-ali).

    Phones, HMM states and their times stay; pdfs, and so transition ids, become the new ones.
    """

    def __init__(
        self,
        old_transition_model: TransitionModel,
        new_transition_model: TransitionModel,
        new_tree: ContextDependency,
    ) -> None:
        """Prepare the conversion.

        Raises:
            FormatError: A phone of the old model has another topology in the new one, or none.
        """
        self._old = old_transition_model
        self._table = PhoneTable.of(old_transition_model)
        self._tree = new_tree
        self._topologies = _topologies(old_transition_model)
        new = _topologies(new_transition_model)
        if differing := sorted(p for p, states in self._topologies.items() if new.get(p) != states):
            raise FormatError(
                f"the phones {summarise([str(phone) for phone in differing])} have another "
                "topology in the new model, or none",
                remedy="Train both models with the same lang directory",
            )
        # First transition id out of each transition state, by what the state stands for.
        self._first_tids: dict[tuple[int, ...], int] = {
            tuple(state.__getstate__()): first
            for state, first in zip(
                new_transition_model.tuples, new_transition_model.state2id[1:], strict=False
            )
        }
        self._of_window: dict[tuple[int, ...], NDArray[np.int32]] = {}

    def convert(self, tids: NDArray[np.integer]) -> NDArray[np.int32]:
        """Convert the alignment of one utterance, (T,) to (T,).

        Raises:
            FormatError: A number is no transition id of the old model; or the new model and its
                tree do not belong together.
            DataError: The alignment is not a sequence of whole phones.
        """
        check_transition_ids(tids, self._old)
        table = self._table
        runs = split_into_phones(table, tids, np.zeros(1, dtype=np.int64))
        if not runs.whole[0]:
            raise DataError("the alignment breaks off inside a phone")
        if not len(tids):
            return np.zeros(0, dtype=np.int32)
        windows = runs.windows(self._tree.context_width, self._tree.central_position)
        first = np.stack([self._state_tids(tuple(window)) for window in windows.tolist()])
        phone_of_frame = np.repeat(np.arange(len(windows)), runs.frames)
        new = first[phone_of_frame, table.hmm_states[tids]] + table.transitions[tids]
        if not runs.reordered[0]:
            # Each visit to a state ends with the way out of it, which goes to its beginning.
            ends = np.flatnonzero(~table.self_loops[tids])
            begins = np.append(0, ends[:-1] + 1)
            new[begins], new[ends] = new[ends], new[begins]
        return new

    def _state_tids(self, window: tuple[int, ...]) -> NDArray[np.int32]:
        """First new transition id out of each HMM state of a phone in its context."""
        known = self._of_window.get(window)
        if known is not None:
            return known
        phone = window[self._tree.central_position]
        states = self._topologies[phone]
        first = np.zeros(max(map(len, self._topologies.values())), dtype=np.int32)
        for number, (forward, self_loop, _) in enumerate(states):
            if forward == NO_PDF:
                continue
            pdfs = tuple(self._pdf(window, pdf_class) for pdf_class in (forward, self_loop))
            tid = self._first_tids.get((phone, number, *pdfs))
            if tid is None:
                raise FormatError(
                    f"the new model has no state {number} of phone {phone} with the pdf {pdfs[0]} "
                    "of its tree",
                    remedy="Take tree and model from one directory",
                )
            first[number] = tid
        self._of_window[window] = first
        return first

    def _pdf(self, window: tuple[int, ...], pdf_class: int) -> int:
        known, pdf = self._tree.compute(list(window), pdf_class)
        if not known:
            raise FormatError(
                f"the new tree has no pdf for state {pdf_class} of the phones {list(window)}"
            )
        return int(pdf)


_State = tuple[int, int, tuple[int, ...]]
"""An HMM state: its pdf classes out of it and in its loop, and the states that follow."""


def _topologies(transition_model: TransitionModel) -> dict[int, list[_State]]:
    """The topology of each phone, without probabilities."""
    phones, phone_to_entry, entries = transition_model.topo.__getstate__()
    topologies: list[list[_State]] = [[_without_probabilities(s) for s in e] for e in entries]
    return {phone: topologies[phone_to_entry[phone]] for phone in phones}


def _without_probabilities(state: Any) -> _State:
    forward, self_loop, transitions = state.__getstate__()
    return forward, self_loop, tuple(target for target, _ in transitions)
