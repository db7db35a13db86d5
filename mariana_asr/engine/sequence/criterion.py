"""Sequence-discriminative criteria on a lattice, with their gradients.

Of an utterance with frames t, reference classes r(t) and scores s(t, c), which are acoustic
log-likelihoods times the acoustic scale, a path's weight is the product of its arcs' weights and of
the exponentials of the scores of its classes. The lattice shares probability out among its paths by
their weights.

- State-level minimum Bayes risk (Kingsbury 2009): the expected number of frames whose class is the
  reference's. Its gradient is the posterior of an arc times what a path through it has more than
  the mean of all paths (Povey 2003; Kaldi's LatticeForwardBackwardMpeVariants).
- Maximum mutual information: the reference's score less the logarithm of the sum over all paths.
  Its gradient is the reference less the posterior of each class (Kaldi's
  nnet-train-mmi-sequential). Boosted (Povey et al. 2008), the more wrong frames a path has the
  heavier it is.

Vesely et al. (2013), "Sequence-discriminative training of deep neural networks", has both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.options.sequence import CriterionName
from mariana_asr.engine.sequence.lattice import Doubles, SequenceLattice

DROPPED_BELOW = 1e-20
"""With MMI a frame whose reference has no more posterior than this in the lattice is not learnt
from, as in Kaldi: no path there is right, so transcript or search are at fault."""


@dataclass(frozen=True)
class Criterion:
    """Which criterion, and its details.

    Attributes:
        name: ``smbr`` or ``mmi``.
        boost: For MMI, what the score of a path gains with each wrong frame.
        drop_frames: For MMI, leave frames out whose reference the lattice has not.
    """

    name: CriterionName
    boost: float = 0.0
    drop_frames: bool = True


@dataclass(frozen=True)
class Judgement:
    """What a criterion says of an utterance.

    Attributes:
        loss: For sMBR the expected number of wrong frames; for MMI the negated criterion.
        accuracy: Expected number of right frames.
        dropped: Number of frames that were left out.
        arcs: (E,) gradient of the loss by the score of each arc that takes a frame.
        reference: (T,) the same by the score of each frame's reference, beside that of the arcs.
    """

    loss: float
    accuracy: float
    dropped: int
    arcs: Doubles
    reference: Doubles


def judge(
    lattice: SequenceLattice,
    arc_scores: Doubles,
    reference_scores: Doubles,
    is_right: NDArray[np.bool_],
    is_reference: NDArray[np.bool_],
    criterion: Criterion,
) -> Judgement:
    """Work out a criterion and its gradient.

    Args:
        lattice: The utterance's lattice.
        arc_scores: (E,) score of each arc that takes a frame.
        reference_scores: (T,) score of each frame's reference.
        is_right: (E,) whether these arcs' classes count as the reference's.
        is_reference: (E,) whether they are the reference's.
        criterion: Which one.
    """
    scores = lattice.scores.astype(np.float64)
    scores[lattice.emitting] += arc_scores
    right = np.zeros(len(scores))
    right[lattice.emitting] = is_right
    if criterion.name == "smbr":
        return _risk(lattice, scores, right, len(reference_scores))
    if criterion.boost:
        scores[lattice.emitting] += criterion.boost * (1.0 - is_right)
    before, after = lattice.sums_from_start(scores), lattice.sums_to_end(scores)
    posteriors = np.exp(before[lattice.source] + scores + after[lattice.destination] - before[-1])
    arcs = posteriors[lattice.emitting]
    frames = lattice.frames[lattice.emitting]
    known = np.bincount(frames, arcs * is_reference, minlength=len(reference_scores))
    kept = (known >= DROPPED_BELOW) | (not criterion.drop_frames)
    # A frame left out has, in place of the reference, what the lattice expects there.
    expected = np.bincount(frames, arcs * arc_scores, minlength=len(reference_scores))
    path = np.where(kept, reference_scores, expected).sum()
    return Judgement(
        loss=float(before[-1] - path),
        accuracy=float((posteriors * right).sum()),
        dropped=int(len(kept) - kept.sum()),
        arcs=arcs * kept[frames],
        reference=-kept.astype(np.float64),
    )


def _risk(lattice: SequenceLattice, scores: Doubles, right: Doubles, frames: int) -> Judgement:
    source, destination = lattice.source, lattice.destination
    before, after = lattice.sums_from_start(scores), lattice.sums_to_end(scores)
    found = lattice.means_from_start(np.exp(before[source] + scores - before[destination]), right)
    to_come = lattice.means_to_end(np.exp(scores + after[destination] - after[source]), right)
    posteriors = np.exp(before[source] + scores + after[destination] - before[-1])
    accuracy = found[-1]
    gains = posteriors * (found[source] + right + to_come[destination] - accuracy)
    return Judgement(
        loss=frames - float(accuracy),
        accuracy=float(accuracy),
        dropped=0,
        arcs=-gains[lattice.emitting],
        reference=np.zeros(frames),
    )


class LatticeLoss(torch.autograd.Function):
    """The loss of an utterance as a function of the scores of its frames.

    The lattice is worked on by the processor, in double precision; of scores on another device
    only those cross over that the lattice has arcs for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        targets: Tensor,
        groups: Tensor,
        lattice: SequenceLattice,
        criterion: Criterion,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the loss, the expected number of right frames, and the number of those left out.

        Args:
            ctx: torch's.
            scores: (T, P) acoustic log-likelihoods times the acoustic scale, on any device.
            targets: (T,) int64 reference class of each frame.
            groups: (P,) int64: a class is right where its group is the reference's.
            lattice: The utterance's lattice.
            criterion: Which criterion.

        Returns:
            Three scalars, float32, float32 and int64.
        """
        emitting, device = lattice.emitting, scores.device
        frames = torch.from_numpy(lattice.frames[emitting]).to(device, torch.int64)
        classes = torch.from_numpy(lattice.classes[emitting]).to(device, torch.int64)
        references = targets[frames]
        judged = judge(
            lattice,
            scores[frames, classes].double().cpu().numpy(),
            scores.gather(1, targets[:, None]).squeeze(1).double().cpu().numpy(),
            (groups[classes] == groups[references]).cpu().numpy(),
            (classes == references).cpu().numpy(),
            criterion,
        )
        gradient = torch.zeros(scores.shape, dtype=torch.float64, device=device)
        arcs = torch.from_numpy(judged.arcs).to(device)
        gradient.index_put_((frames, classes), arcs, accumulate=True)
        reference = torch.from_numpy(judged.reference).to(device)
        gradient.scatter_add_(1, targets[:, None], reference[:, None])
        ctx.save_for_backward(gradient.to(scores.dtype))
        loss = torch.tensor(judged.loss, device=device)
        accuracy = torch.tensor(judged.accuracy, device=device)
        dropped = torch.tensor(judged.dropped, device=device)
        ctx.mark_non_differentiable(accuracy, dropped)
        return loss, accuracy, dropped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the loss by the scores."""
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None, None, None
