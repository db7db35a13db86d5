"""Alignments of many utterances cut into phones at once, and the phones' contexts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import NO_PDF, TransitionModel

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class PhoneTable:
    """What each transition id of a model stands for, in arrays that a process can be sent.

    Index 0 of every array is no transition id.

    Attributes:
        phones: Phone, shape (K + 1,).
        states: Transition state, shape (K + 1,).
        hmm_states: State of the phone's topology, shape (K + 1,).
        transitions: Number of the transition among those out of its state, shape (K + 1,).
        pdf_classes: Pdf class of the frame that takes the transition, shape (K + 1,).
        self_loops: Whether the transition stays in its state, shape (K + 1,).
        finals: Whether it leaves the phone, shape (K + 1,).
        entries: Whether a phone can begin with its state, shape (K + 1,).
        context_indep_phones: Phones whose model sees no context, in rising order.
    """

    phones: Ints
    states: Ints
    hmm_states: Ints
    transitions: Ints
    pdf_classes: Ints
    self_loops: NDArray[np.bool_]
    finals: NDArray[np.bool_]
    entries: NDArray[np.bool_]
    context_indep_phones: Ints

    @classmethod
    def of(
        cls, transition_model: TransitionModel, context_indep_phones: Sequence[int] = ()
    ) -> "PhoneTable":
        """Take the table out of a transition model."""
        _, phone_to_entry, entries = transition_model.topo.__getstate__()
        topologies = [[state.__getstate__() for state in entry] for entry in entries]
        rows = [(0, 0, 0, 0, 0, False, False, False)]
        for number, state in enumerate(transition_model.tuples, 1):
            phone, hmm_state, _, _ = state.__getstate__()
            topology = topologies[phone_to_entry[phone]]
            forward, self_loop, transitions = topology[hmm_state]
            # Only a first state that emits nothing lets a phone begin elsewhere.
            entry = hmm_state == 0 or topology[0][0] == NO_PDF
            for index, (target, _) in enumerate(transitions):
                loops = target == hmm_state
                pdf_class = self_loop if loops else forward
                final = target + 1 == len(topology)
                rows.append((phone, number, hmm_state, index, pdf_class, loops, final, entry))
        columns = np.array(rows, dtype=np.int32).T.copy()
        flags = columns[5:].astype(np.bool_)
        alone = np.unique(np.array(context_indep_phones, dtype=np.int32))
        return cls(
            phones=columns[0],
            states=columns[1],
            hmm_states=columns[2],
            transitions=columns[3],
            pdf_classes=columns[4],
            self_loops=flags[0],
            finals=flags[1],
            entries=flags[2],
            context_indep_phones=alone,
        )


@dataclass(frozen=True)
class PhoneRuns:
    """The phones of some utterances whose frames lie one behind the other.

    Attributes:
        phones: Phone ids, shape (I,).
        ends: The frame after each phone's last one, shape (I,).
        utterances: Index of the utterance that each phone is in, shape (I,).
        whole: Which utterances begin and end with whole phones, and change phones nowhere else;
            shape (U,).
        reordered: Which utterances have the self-loops of a state behind the transition that
            leaves it, shape (U,).
    """

    phones: Ints
    ends: NDArray[np.int64]
    utterances: NDArray[np.int64]
    whole: NDArray[np.bool_]
    reordered: NDArray[np.bool_]

    @property
    def frames(self) -> NDArray[np.int64]:
        """Number of frames of each phone, shape (I,)."""
        return np.diff(self.ends, prepend=0)

    def windows(self, width: int, central: int) -> Ints:
        """Each phone with its neighbours, shape (I, width); 0 stands outside of the utterance."""
        count = len(self.phones)
        windows = np.zeros((count, width), dtype=np.int32)
        for column, offset in enumerate(range(-central, width - central)):
            here = np.arange(max(0, -offset), min(count, count - offset))
            there = here + offset
            inside = self.utterances[here] == self.utterances[there]
            windows[here[inside], column] = self.phones[there[inside]]
        return windows


def split_into_phones(
    table: PhoneTable, tids: NDArray[np.integer], starts: NDArray[np.integer]
) -> PhoneRuns:
    """Cut alignments into phones (Kaldi: SplitToPhones).

    Args:
        table: The model that the alignments were made with.
        tids: Transition ids of all frames, shape (T,).
        starts: First frame of each utterance, in rising order, shape (U,).
    """
    frames, utterances = len(tids), len(starts)
    of_utterance = np.repeat(np.arange(utterances), np.diff(np.append(starts, frames)))
    states, loops, finals = table.states[tids], table.self_loops[tids], table.finals[tids]
    together = of_utterance[1:] == of_utterance[:-1]
    same_state = together & (states[1:] == states[:-1])
    reordered = _are_reordered(starts, loops, of_utterance, together & ~same_state)

    # Behind a final transition come, where the alignment is reordered, the loops of its state.
    stays = np.append(same_state & loops[1:] & reordered[of_utterance[1:]], False)[:frames]
    runs = np.cumsum(~stays) - ~stays
    leaves = np.zeros(runs[-1] + 1 if frames else 0, dtype=np.bool_)
    leaves[runs[finals]] = True
    proper = ~stays & leaves[runs]
    phones = table.phones[tids]
    changes = np.append(~together | (~same_state & (phones[1:] != phones[:-1])), True)[:frames]
    cut = proper | changes
    whole = np.ones(utterances, dtype=np.bool_)
    whole[of_utterance[cut & ~proper]] = False
    ends = np.flatnonzero(cut) + 1
    begins = np.append(0, ends[:-1])[: len(ends)]
    whole[of_utterance[begins[~table.entries[tids[begins]]]]] = False
    return PhoneRuns(phones[begins], ends, of_utterance[begins], whole, reordered)


def _are_reordered(
    starts: NDArray[np.integer],
    loops: NDArray[np.bool_],
    of_utterance: NDArray[np.integer],
    state_changes: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which utterances have self-loops last in each state (Kaldi: IsReordered), shape (U,).

    The first change of state with a self-loop beside it tells; where there is none, the loop at
    the utterance's beginning or end does.
    """
    utterances = len(starts)
    first, last = np.asarray(starts), np.append(starts[1:], len(loops)) - 1
    filled = last >= first
    answer = np.zeros(utterances, dtype=np.bool_)
    answer[filled] = loops[last[filled]] & ~loops[first[filled]]
    telling = np.flatnonzero(state_changes & (loops[:-1] | loops[1:]))
    present, which = np.unique(of_utterance[telling], return_index=True)
    answer[present] = loops[telling[which]]
    return answer
