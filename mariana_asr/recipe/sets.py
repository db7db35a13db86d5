"""The data directories of an experiment: where the stages left them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.speed import AS_RECORDED, perturbed_copies
from mariana_asr.errors import RecipeError
from mariana_asr.features.linear import require_speaker_transforms
from mariana_asr.recipe.schema import Recipe

TRAIN, DEV = "train", "dev"

TRAIN_COPIES = "train_sp"
"""Copies of the training set at other speeds, without what was recorded."""

NETWORK_FEATURES = "features_net"
"""The stage that computes features of the network's own."""

COPIES_SUFFIX = "_sp"
"""Ends the names of stages that do for the copies what others do for the recordings."""

COPIES, NETWORK_COPIES = f"features{COPIES_SUFFIX}", f"{NETWORK_FEATURES}{COPIES_SUFFIX}"
"""The stages that compute the copies' features: those of the GMMs, and of the network's own."""

DISTORTED_FEATURES = "features_aug"
"""The stage that computes the network's features of distorted audio."""


class ExperimentSets:
    """Reads the data directories of an experiment."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Arguments as of ``Experiment``."""
        self.recipe = recipe
        self.folder = folder

    def corpus(self) -> Iterator[DataDir]:
        """Every set as it was prepared."""
        for path in sorted((self.folder / "corpus").glob("*/utt2spk")):
            yield read_data_dir(path.parent)

    def gmm(self, name: str) -> DataDir:
        """A set with the features of the GMMs."""
        return read_data_dir(self._place("features", name))

    def network(self, name: str) -> DataDir:
        """A set with what networks read; its utterances are those that have the GMMs' features."""
        data = self.gmm(name)
        if self.recipe.model.features is None:
            return data
        own = read_data_dir(self._place(NETWORK_FEATURES, name))
        return replace(data, path=own.path, feats=own.feats, cmvn=own.cmvn)

    @property
    def training_names(self) -> tuple[str, ...]:
        """The sets that the network is trained on, without what distorts them."""
        return (TRAIN, TRAIN_COPIES) if self.recipe.has_speed_copies else (TRAIN,)

    def training_audio(self, name: str) -> DataDir:
        """One of ``training_names`` as it was prepared, copies with their speeds.

        Raises:
            DataError: There is no audio to make copies of.
        """
        train = read_data_dir(self.folder / "corpus" / TRAIN)
        if name == TRAIN:
            return train
        assert self.recipe.augmentation is not None, "without it there are no copies"
        speeds = [speed for speed in self.recipe.augmentation.speeds if speed != AS_RECORDED]
        return perturbed_copies(train, speeds, train.path)

    def training_variants(self, name: str) -> list[DataDir]:
        """What the network is trained on of one of ``training_names``: as it is, or distorted."""
        augmentation = self.recipe.augmentation
        if augmentation is None or not augmentation.distorts:
            return [self.network(name)]
        folder = self.folder / DISTORTED_FEATURES
        numbers = range(1, augmentation.copies + 1)
        return [read_data_dir(folder / f"{name}_{number}") for number in numbers]

    def labels(self, stage: str, name: str) -> Path:
        """The folder of a set's alignments: by the GMMs (``ali``) or a network (``ali_dnn``)."""
        return self._place(stage, name)

    def transforms(self, folder: Path) -> dict[str, NDArray[np.float32]] | None:
        """The speakers' transforms in a folder, if networks take adapted features."""
        return require_speaker_transforms(folder) if self.recipe.model.adapted else None

    def decoded(self) -> Iterator[DataDir]:
        """The sets that are decoded, with the features of the GMMs."""
        for name in self.decoded_names(self.folder / "features"):
            yield self.gmm(name)

    def decoded_names(self, folder: Path) -> list[str]:
        """Names of the sets to decode, of those in a folder.

        Raises:
            RecipeError: The recipe names one that the corpus has not.
        """
        found = sorted(path.parent.name for path in folder.glob("*/utt2spk"))
        wanted = self.recipe.decode.sets
        if wanted is None:
            return [name for name in found if name != TRAIN]
        if unknown := [name for name in wanted if name not in found]:
            raise RecipeError(
                f"decode.sets names {', '.join(unknown)}; the corpus has {', '.join(found)}",
                where=folder,
            )
        return list(wanted)

    def _place(self, stage: str, name: str) -> Path:
        return self.folder / (f"{stage}{COPIES_SUFFIX}" if name == TRAIN_COPIES else stage) / name
