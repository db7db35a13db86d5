"""Cutting alignments into phones one utterance at a time, to hold the package's way against."""

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.transition_ids import check_transition_ids


def alignment_to_phones(
    tids: NDArray[np.integer], transition_model: TransitionModel
) -> list[tuple[int, int]]:
    """Cut an alignment into phones: (phone id, frames) in order (Kaldi: SplitToPhones).

    Raises:
        FormatError: A number is no transition id of the model.
    """
    check_transition_ids(tids, transition_model)
    distinct, inverse = np.unique(tids, return_inverse=True)
    final = np.array([transition_model.is_final(tid) for tid in distinct.tolist()])[inverse]
    loops = np.array([transition_model.is_self_loop(tid) for tid in distinct.tolist()])[inverse]
    states = np.array(transition_model.id2state)[tids]
    # A phone ends with the transition to its final state. Kaldi's graphs put the self-loops of
    # the state that is left after that transition, so they still belong to the phone.
    stays = np.append((states[1:] == states[:-1]) & loops[1:], False)
    runs = np.cumsum(~stays) - ~stays  # frames of one run stay in one state
    leaves = np.bincount(runs, final) > 0
    ends = np.flatnonzero(~stays & leaves[runs]) + 1
    if not len(ends) or ends[-1] != len(tids):
        ends = np.append(ends, len(tids))
    lengths = np.diff(ends, prepend=0)
    return [
        (transition_model.transition_id_to_phone(int(tids[end - 1])), int(length))
        for end, length in zip(ends, lengths, strict=True)
    ]
