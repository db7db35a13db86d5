"""How summed gradients change the parameters: SGD as in Kaldi's nnet1, AdaGrad, Adam, AdamW."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from mariana_asr.engine.options import (
    AdagradOptions,
    AdamOptions,
    LearningOptions,
    SgdOptions,
)
from mariana_asr.errors import RecipeError

MOMENTUM_SLOTS = ("momentum_buffer", "exp_avg")
"""torch's names of what an optimiser keeps of past gradients' direction, not of their size."""


class Optimiser:
    """One of torch's optimisers, fed with sums over frames.

    SGD follows Kaldi's nnet1 (UpdatableComponent of nnet-affine-transform.h):

    - a step is ``-learning_rate`` times the sum, not the mean, of the frames' gradients;
    - momentum: ``c = momentum * c + gradient``, step ``-learning_rate * c``;
    - weights (not biases) are first multiplied by ``1 - learning_rate * l2_penalty * frames``,
      which does not enter the momentum.

    The adaptive ones take the mean gradient. AdaGrad and Adam add ``l2_penalty`` times the weights
    to it; AdamW first multiplies weights by ``1 - learning_rate * l2_penalty``. "Weights" are all
    parameters of more than one dimension; each of their rows leads into one unit.

    torch's fused kernels take one pass over the parameters, on a CPU, too: measured on two cores,
    1.4 million parameters, they are 1.5 times (SGD with momentum) to 4 times (AdaGrad, Adam) as
    fast as torch's other two ways, and as fast for SGD alone.

    Attributes:
        steps: Steps done; those that were refused do not count.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        options: LearningOptions,
        *,
        learning_rate_factors: Mapping[str, float],
        sum_over_owners: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Make the optimiser with its slots, which begin as zeros.

        Args:
            parameters: The leaf tensors that this worker updates, by name; they may be rows of the
                network's parameters. ``.grad`` is read at each step.
            options: Optimiser, penalty and bounds; ``layer_rates`` are patterns of these names.
            learning_rate_factors: Names of parameters that are trained at another rate, with its
                factor; ``layer_rates`` multiply it.
            sum_over_owners: Where each worker owns a part of the parameters: sums a tensor over
                the workers, and returns the sum. For the norm of the whole gradient.

        Raises:
            RecipeError: A pattern of ``layer_rates`` fits no parameter.
        """
        self.steps = 0
        self._options = options
        self._parameters = dict(parameters)
        self._sum_over_owners = sum_over_owners
        factors = _rate_factors(self._parameters, options, learning_rate_factors)
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for name, parameter in self._parameters.items():
            groups.setdefault((factors[name], parameter.ndim > 1), []).append(parameter)
        # torch's SGD would pass its weight decay through the momentum, so the penalty is ours.
        penalty = 0.0 if isinstance(options.optimiser, SgdOptions) else options.l2_penalty
        self._torch, self._slots = _torch_optimiser(
            options,
            [
                {
                    "params": members,
                    "factor": factor,
                    "weights": weights,
                    "weight_decay": penalty if weights else 0.0,
                }
                for (factor, weights), members in groups.items()
            ],
        )
        # Made here, not by torch in the first step: a state can be saved and loaded at any time.
        for parameter in self._parameters.values():
            self._torch.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{slot: torch.zeros_like(parameter.detach()) for slot in self._slots},
            }

    @torch.no_grad()
    def step(
        self, learning_rate: float, frames: int, squares: Mapping[str, Tensor] | None = None
    ) -> bool:
        """Update the parameters from gradients summed over ``frames`` frames.

        ``.grad`` may be scaled in place. A parameter without ``.grad`` stays as it is.

        Args:
            learning_rate: Per frame for SGD, else per step; factors of layers come on top.
            frames: Number of frames.
            squares: For the exact rule of the adaptive optimisers: of each parameter, the sum over
                the workers of the square of each worker's own part of ``.grad``. By default the
                square of ``.grad`` counts.

        Returns:
            False, and nothing at all is changed, if the norm of the gradient is not finite.
        """
        updated = {n: p.grad for n, p in self._parameters.items() if p.grad is not None}
        gradients = list(updated.values())
        norm = self._norm(gradients, squares)
        if not math.isfinite(norm):
            return False
        frames_or_one = max(frames, 1)  # a worker can be without frames in a small minibatch
        scale = 1.0
        if self._options.max_grad_norm is not None:
            # As torch's clip_grad_norm_ does.
            scale = min(1.0, self._options.max_grad_norm / (norm / frames_or_one + 1e-6))
        if not isinstance(self._options.optimiser, SgdOptions):
            scale /= frames_or_one
        if gradients and scale != 1.0:
            torch._foreach_mul_(gradients, scale)
        for group in self._torch.param_groups:
            group["lr"] = learning_rate * group["factor"]
        if squares is not None:
            self._replace_squares(updated, squares, scale * scale)
        if isinstance(self._options.optimiser, SgdOptions):
            self._shrink(frames)
        self._torch.step()
        self.steps += 1
        if len(updated) < len(self._parameters):
            self._set_steps()
        if self._options.max_norm is not None:
            for name in updated:
                if self._parameters[name].ndim > 1:
                    self._parameters[name].renorm_(2.0, 0, self._options.max_norm)
        return True

    def set_momentum(self, momentum: float) -> None:
        """Set the momentum of SGD that was made with one."""
        for group in self._torch.param_groups:
            group["momentum"] = momentum

    def forget_momentum(self) -> None:
        """Forget the direction of past steps, after the parameters were set to others.

        SGD's momentum and Adam's mean gradient become zero. The squares of past gradients stay:
        they tell the scale of the gradients, which holds for the other parameters, too.
        """
        for slot in set(MOMENTUM_SLOTS).intersection(self._slots):
            for parameter in self._parameters.values():
                self._torch.state[parameter][slot].zero_()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; the tensors are those in use, no copies.

        Returns:
            ``slots``: by torch's name of a slot (``momentum_buffer``; ``sum``; ``exp_avg`` and
            ``exp_avg_sq``) and name of a parameter, a tensor of the parameter's shape; ``steps``.
        """
        return {
            "slots": {
                slot: {n: self._torch.state[p][slot] for n, p in self._parameters.items()}
                for slot in self._slots
            },
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`, from whatever device.

        Raises:
            ValueError: It is of another optimiser or of other parameters.
        """
        if set(state["slots"]) != set(self._slots):
            raise ValueError(f"slots {sorted(state['slots'])}, wanted {sorted(self._slots)}")
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        for slot, tensors in state["slots"].items():
            found = {name: tensor.shape for name, tensor in tensors.items()}
            if found != shapes:
                raise ValueError(f"slot {slot} has tensors {found}, wanted {shapes}")
        for slot, tensors in state["slots"].items():
            for name, parameter in self._parameters.items():
                self._torch.state[parameter][slot].copy_(tensors[name])
        self.steps = state["steps"]
        self._set_steps()

    def _set_steps(self) -> None:
        # torch counts for each parameter, and only the steps that it had a gradient in.
        for parameter in self._parameters.values():
            self._torch.state[parameter]["step"].fill_(self.steps)

    def _norm(self, gradients: list[Tensor], squares: Mapping[str, Tensor] | None) -> float:
        """L2 norm of the whole gradient; not finite if anything in ``squares`` is not."""
        sums = [get_total_norm(gradients).double().square()]
        if squares is not None:
            sums.append(torch.stack([values.sum() for values in squares.values()]).double().sum())
        total = torch.stack(sums)
        if self._sum_over_owners is not None:
            total = self._sum_over_owners(total)
        values = total.tolist()
        return math.sqrt(values[0]) if math.isfinite(sum(values)) else math.inf

    def _shrink(self, frames: int) -> None:
        """The penalty of SGD, which acts beside the gradient."""
        penalty = self._options.l2_penalty
        if penalty > 0.0:
            for group in self._torch.param_groups:
                for parameter in group["params"] if group["weights"] else ():
                    if parameter.grad is not None:
                        parameter.mul_(1.0 - group["lr"] * penalty * frames)

    def _replace_squares(
        self, gradients: Mapping[str, Tensor], squares: Mapping[str, Tensor], scale: float
    ) -> None:
        """Let the workers' own squares, times ``scale``, count in place of the gradient's square.

        The second moment is corrected by their difference before torch adds the gradient's square.
        A penalty in the gradient counts as one worker more.
        """
        optimiser = self._options.optimiser
        if isinstance(optimiser, AdagradOptions):
            slot, share = "sum", 1.0
        elif isinstance(optimiser, AdamOptions):
            # torch will multiply the moment by beta2, and add the square times 1 - beta2.
            slot, share = "exp_avg_sq", (1.0 - optimiser.beta2) / optimiser.beta2
        else:
            return
        penalty = 0.0 if optimiser.type == "adamw" else self._options.l2_penalty
        for name, gradient in gradients.items():
            parameter = self._parameters[name]
            own = squares[name] * scale
            if penalty > 0.0 and parameter.ndim > 1:
                own.add_(parameter.square(), alpha=penalty * penalty)
                gradient = gradient.add(parameter, alpha=penalty)
            square = gradient.square()
            moment = self._torch.state[parameter][slot]
            moment.add_(own.sub_(square), alpha=share)
            # The square of a sum is at most as often the sum of squares as there are workers:
            # this bound is for rounding, and for gradients that are not the workers' exact sum.
            torch.maximum(moment, square.mul_(-share * (1.0 - 2.0**-20)), out=moment)


def _torch_optimiser(
    options: LearningOptions, groups: list[dict[str, Any]]
) -> tuple[torch.optim.Optimizer, tuple[str, ...]]:
    """The optimiser of torch, and the names of its slots; rates are set at each step."""
    optimiser = options.optimiser
    if isinstance(optimiser, SgdOptions):
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=optimiser.momentum, fused=True)
        return sgd, ("momentum_buffer",) if optimiser.momentum > 0.0 else ()
    if isinstance(optimiser, AdagradOptions):
        return torch.optim.Adagrad(groups, lr=0.0, eps=optimiser.epsilon, fused=True), ("sum",)
    cls = torch.optim.AdamW if optimiser.type == "adamw" else torch.optim.Adam
    betas = (optimiser.beta1, optimiser.beta2)
    adam = cls(groups, lr=0.0, betas=betas, eps=optimiser.epsilon, fused=True)
    return adam, ("exp_avg", "exp_avg_sq")


def _rate_factors(
    names: Mapping[str, Tensor], options: LearningOptions, given: Mapping[str, float]
) -> dict[str, float]:
    """The factor on the learning rate of each parameter.

    Raises:
        RecipeError: A pattern fits no parameter.
    """
    factors = {name: given.get(name, 1.0) for name in names}
    for pattern, factor in options.layer_rates.items():
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise RecipeError(
                f"{pattern!r} fits no parameter",
                where=f"{options.SECTION}.layer_rates",
                remedy=f"The parameters are {', '.join(names)}",
            )
        for name in fitting:
            factors[name] *= factor
    return factors
