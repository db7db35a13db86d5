"""Operations on FSTs that Kaldi's mkgraph.sh needs and the kaldifst wheel lacks."""

import logging
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.fst_arrays import FstArrays, from_fst, to_fst

logger = logging.getLogger(__name__)

_MAX_PUSHING_ITERATIONS = 200
_MAX_EPSILON_ROUNDS = 200


def remove_symbols(fst: FstArrays, symbols: Collection[int]) -> FstArrays:
    """Turn some input symbols into epsilon (Kaldi's fstrmsymbols)."""
    return replace(fst, ilabel=np.where(np.isin(fst.ilabel, list(symbols)), 0, fst.ilabel))


def remove_output_arcs(fst: FstArrays, symbols: Collection[int]) -> FstArrays:
    """Drop arcs with some output symbols (fstrmsymbols --remove-arcs --apply-to-output)."""
    return fst.select(~np.isin(fst.olabel, list(symbols)))


def push_special(fst: FstArrays, delta: float = 1.0 / 1024.0) -> FstArrays:
    """Push weights so that the arcs and final cost of every state sum to one same value.

    Unlike ordinary pushing this also works on a back-off language model, whose paths sum to
    more than one. Costs of whole paths do not change. Source: Kaldi's fstpushspecial, which
    follows Hannemann and Povey, "Combining forward and backward search in decoding", ICASSP
    2013: the potentials are the dominant eigenvector of the matrix of transition probabilities
    (final probabilities lead to the start state), found by the power method.

    Args:
        fst: A transducer without dead ends.
        delta: Greatest difference between the states' sums, in natural logs.
    """
    if not fst.num_states or not len(fst.source):
        return fst
    probability = np.exp(-fst.weight.astype(np.float64))
    ending = np.exp(-fst.final.astype(np.float64))

    def step(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(fst.source, probability * vector[fst.target], fst.num_states)
        return sums + ending * vector[fst.start]

    vector = np.full(fst.num_states, fst.num_states**-0.5)
    for _ in range(_MAX_PUSHING_ITERATIONS):
        following = step(vector)
        ratio = following / vector
        if np.log(ratio.max() / ratio.min()) <= delta:
            break
        # A tenth of the old vector keeps eigenvalues of equal magnitude from oscillating.
        following += 0.1 * vector
        vector = following / np.linalg.norm(following)
    else:
        logger.info("weight pushing did not converge in %d iterations", _MAX_PUSHING_ITERATIONS)
    if not np.all(np.isfinite(np.log(vector))):
        return fst
    potential = -np.log(vector)
    weight = fst.weight + potential[fst.target] - potential[fst.source]
    final = fst.final + potential[fst.start] - potential
    return replace(fst, weight=weight.astype(np.float32), final=final.astype(np.float32))


def remove_epsilons_locally(fst: FstArrays) -> FstArrays:
    """Join arcs with epsilons to their neighbours where the graph cannot grow by it.

    An arc is joined to what follows it where at most one of them has an input label and at most
    one an output label, and where the state between them has no other way in, or no other way
    out. So back-off arcs stay, which full epsilon removal would multiply. Costs of paths do not
    change. Source: Kaldi's fstrmepslocal; here, whole rounds of independent arcs at once.
    """
    fst = replace(
        fst,
        source=fst.source.copy(),
        target=fst.target.copy(),
        ilabel=fst.ilabel.copy(),
        olabel=fst.olabel.copy(),
        weight=fst.weight.astype(np.float64),
        final=fst.final.astype(np.float64),
    )
    for _ in range(_MAX_EPSILON_ROUNDS):
        before = len(fst.source)
        fst, entries = _join_single_entries(fst)
        fst, exits = _join_single_exits(fst)
        if not (entries or exits):
            break
        logger.debug("epsilon removal: %d arcs became %d", before, len(fst.source))
    return replace(fst, weight=fst.weight.astype(np.float32), final=fst.final.astype(np.float32))


def connect(fst: FstArrays) -> FstArrays:
    """Drop states that no path from the start to an end goes through."""
    trimmed = to_fst(fst)
    kaldifst.connect(trimmed)
    return from_fst(trimmed)


def _joinable(
    fst: FstArrays, first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.bool_]:
    return ((fst.ilabel[first] == 0) | (fst.ilabel[second] == 0)) & (
        (fst.olabel[first] == 0) | (fst.olabel[second] == 0)
    )


def _sums(
    states: NDArray[np.int32], values: NDArray[np.float64], num_states: int
) -> NDArray[np.float64]:
    # A bincount of nothing holds integers, whatever its weights.
    return np.bincount(states, values, num_states).astype(np.float64)


def _ways_out(fst: FstArrays) -> NDArray[np.int64]:
    return np.bincount(fst.source, minlength=fst.num_states) + np.isfinite(fst.final)


def _join_single_entries(fst: FstArrays) -> tuple[FstArrays, bool]:
    """Where one arc is the only way into a state, move that state's arcs to before the arc."""
    if not len(fst.source):
        return fst, False
    ways_in = np.bincount(fst.target, minlength=fst.num_states)
    ways_in[fst.start] += 1
    entry = np.full(fst.num_states, -1, dtype=np.intp)
    entry[fst.target] = np.arange(len(fst.target))
    entry[(ways_in != 1)] = -1
    entry[fst.start] = -1

    arcs = np.arange(len(fst.source))
    before = entry[fst.source]
    movable = before >= 0
    movable[movable] = _joinable(fst, before[movable], arcs[movable])
    silent_entry = (entry >= 0) & (fst.ilabel[entry] == 0) & (fst.olabel[entry] == 0)
    ending = silent_entry & np.isfinite(fst.final)
    busy = ending.copy()
    busy[fst.source[movable]] = True
    # A state takes part only where its entry does not itself move in this round.
    chosen = busy & (entry >= 0)
    chosen &= ~busy[fst.source[entry]]
    if not chosen.any():
        return fst, False

    moved = np.flatnonzero(movable & chosen[fst.source])
    ended = np.flatnonzero(ending & chosen)
    removed = _sums(fst.source[moved], np.exp(-fst.weight[moved]), fst.num_states)
    removed[ended] += np.exp(-fst.final[ended])
    stays = chosen[fst.source]
    stays[moved] = False
    kept = _sums(fst.source[stays], np.exp(-fst.weight[stays]), fst.num_states)
    finals_kept = np.flatnonzero(chosen & np.isfinite(fst.final) & ~ending)
    kept[finals_kept] += np.exp(-fst.final[finals_kept])
    has_rest = np.bincount(fst.source[stays], minlength=fst.num_states) > 0
    has_rest[finals_kept] = True

    through = before[moved]
    into = fst.source[through]
    np.minimum.at(fst.final, fst.source[entry[ended]], fst.weight[entry[ended]] + fst.final[ended])
    fst.final[ended] = np.inf
    fst.weight[moved] += fst.weight[through]
    fst.ilabel[moved] += fst.ilabel[through]
    fst.olabel[moved] += fst.olabel[through]
    fst.source[moved] = into
    # What stays behind keeps its costs of paths, and states that summed to one still do.
    rest = np.flatnonzero(chosen & has_rest)
    with np.errstate(divide="ignore"):
        shift = np.zeros(fst.num_states)
        shift[rest] = np.log(kept[rest] + removed[rest]) - np.log(kept[rest])
    shift[~np.isfinite(shift)] = 0.0
    fst.weight[entry[rest]] += shift[rest]
    fst.weight[stays] -= shift[fst.source[stays]]
    fst.final[finals_kept] -= shift[finals_kept]
    alive = np.ones(len(fst.source), dtype=bool)
    alive[entry[chosen & ~has_rest]] = False
    return fst.select(alive), True


def _join_single_exits(fst: FstArrays) -> tuple[FstArrays, bool]:
    """Where a state has one way out, lead the arcs that enter it past the state."""
    if not len(fst.source):
        return fst, False
    single = _ways_out(fst) == 1
    exit_arc = np.full(fst.num_states, -1, dtype=np.intp)
    exit_arc[fst.source] = np.arange(len(fst.source))
    exit_arc[~single] = -1
    exit_arc[fst.target[exit_arc] == np.arange(fst.num_states)] = -1
    only_final = single & np.isfinite(fst.final)

    after = exit_arc[fst.target]
    other_state = fst.source != fst.target
    candidate = other_state & (after >= 0)
    candidate[candidate] = _joinable(fst, np.flatnonzero(candidate), after[candidate])
    ending = other_state & only_final[fst.target] & (fst.ilabel == 0) & (fst.olabel == 0)
    # An arc takes part only where the one it is joined to stays as it is in this round.
    changing = candidate | ending
    joined = np.flatnonzero(candidate & ~changing[after])
    ended = np.flatnonzero(ending)
    if not len(joined) and not len(ended):
        return fst, False
    following = after[joined]
    np.minimum.at(fst.final, fst.source[ended], fst.weight[ended] + fst.final[fst.target[ended]])
    fst.weight[joined] += fst.weight[following]
    fst.ilabel[joined] += fst.ilabel[following]
    fst.olabel[joined] += fst.olabel[following]
    fst.target[joined] = fst.target[following]
    alive = np.ones(len(fst.source), dtype=bool)
    alive[ended] = False
    fst = fst.select(alive)
    # States that nothing enters any more would count as ways in for the next round.
    return _without_unreached(fst), True


def _without_unreached(fst: FstArrays) -> FstArrays:
    reached = np.zeros(fst.num_states, dtype=bool)
    reached[fst.target] = True
    reached[fst.start] = True
    return fst.select(reached[fst.source])
