"""Sweeps: a recipe run once for each of its variants; what they have in common is made once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mariana_asr.engine.training.stopping import Stopped
from mariana_asr.errors import MarianaError, RecipeError
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.runner import SharedStages, experiment_lock, stage_seconds
from mariana_asr.recipe.variants import Variant
from mariana_asr.score.results import Result, read_results

logger = logging.getLogger(__name__)

SWEEP_FOLDER = "sweep"
"""Folder of all variants' experiments, in that of the recipe's own."""

STORE = "stages"
"""Folder of the stages that variants share, beside the variants' own."""


@dataclass(frozen=True)
class SweepRun:
    """A variant with a seed: an experiment.

    Attributes:
        variant: The variant.
        seed: The value of ``train.seed``; None for the recipe's.
        experiment: What is run.
    """

    variant: Variant
    seed: int | None
    experiment: Experiment

    @property
    def label(self) -> str:
        """Its name in messages."""
        return self.variant.label + ("" if self.seed is None else f", seed {self.seed}")


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        run: The run.
        results: Its error rates; none where it failed.
        seconds: Seconds that each of its stages took, shared ones among them.
        error: Why it failed; empty where it did not.
    """

    run: SweepRun
    results: list[Result] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""


class Sweep:
    """A recipe with its variants.

    Each is an experiment in ``EXP/NAME/sweep/VARIANT``. Stages that variants have in common are
    in ``EXP/NAME/sweep/stages``, and the variants have links to them; finished stages of
    ``EXP/NAME`` itself are taken as they are, too.
    """

    def __init__(
        self,
        recipe: Path,
        overrides: Sequence[str],
        variants: Sequence[Variant],
        seeds: Sequence[int],
        exp_dir: Path,
        *,
        jobs: int,
        allow_pipes: bool,
    ) -> None:
        """Check all variants; nothing is run yet.

        Args:
            recipe: The recipe's file.
            overrides: ``section.key=value`` words that override it for all variants.
            variants: What to run.
            seeds: Values of ``train.seed`` to run each with; none for the recipe's own.
            exp_dir: Folder of experiments.
            jobs: Number of processes for what runs over utterances.
            allow_pipes: Whether ``wav.scp`` may hold shell commands.

        Raises:
            RecipeError: The recipe does not fit the schema with the changes of a variant.
        """
        self.base = load_recipe(recipe, overrides)
        self.base_folder = exp_dir / self.base.name
        self.folder = self.base_folder / SWEEP_FOLDER
        self.runs: list[SweepRun] = []
        shared = SharedStages(self.folder / STORE, (self.base_folder,))
        for variant in variants:
            for seed in seeds or (None,):
                name = variant.name + ("" if seed is None else f"+seed-{seed}")
                if name == STORE:
                    raise RecipeError(f"a variant cannot be named {STORE}")
                changes = {**variant.changes, "name": f"{self.base.name}.{name}"}
                if seed is not None:
                    changes["train.seed"] = seed
                try:
                    changed = load_recipe(recipe, overrides, changes)
                except RecipeError as error:
                    raise RecipeError(
                        error.what, where=f"{error.where}, variant {name}", remedy=error.remedy
                    ) from error
                experiment = Experiment(
                    changed, self.folder / name, jobs=jobs, allow_pipes=allow_pipes, shared=shared
                )
                self.runs.append(SweepRun(variant, seed, experiment))

    def run(
        self, *, keep_going: bool = True, after_each: Callable[[list[Outcome]], None] | None = None
    ) -> list[Outcome]:
        """Run all variants, one after the other.

        Args:
            keep_going: Go on with the others when one fails.
            after_each: Called with the outcomes so far, after each run.

        Raises:
            StageError: The recipe's own experiment is being run.
            Stopped: Training was told to stop.
            MarianaError: A variant failed, unless ``keep_going``.
        """
        outcomes: list[Outcome] = []
        with experiment_lock(self.base_folder, reading=True):
            for number, run in enumerate(self.runs, 1):
                logger.info("sweep: %d of %d: %s", number, len(self.runs), run.label)
                outcomes.append(_outcome(run, keep_going))
                if after_each is not None:
                    after_each(outcomes)
        return outcomes


def _outcome(run: SweepRun, keep_going: bool) -> Outcome:
    try:
        run.experiment.run()
    except Stopped:
        raise
    except MarianaError as error:
        if not keep_going:
            raise
        logger.error("%s: %s", run.label, error)
        return Outcome(run, error=str(error))
    except Exception as error:
        if not keep_going:
            raise
        # The others need not fail for an error of the program's that one of them meets.
        logger.exception("%s: an error in the program", run.label)
        return Outcome(run, error=f"{type(error).__name__}: {error}")
    experiment = run.experiment
    current = {stage.name for stage in experiment.stages()}
    seconds = stage_seconds(experiment.folder)
    return Outcome(
        run,
        read_results(experiment.folder),
        {name: value for name, value in seconds.items() if name in current},
    )
