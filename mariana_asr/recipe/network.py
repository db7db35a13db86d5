"""From features and alignments to a trained acoustic model: what joins align, nnet and engine."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.align.pdf_groups import pdf_groups
from mariana_asr.align.transition_ids import check_transition_ids, read_alignments
from mariana_asr.align.utterances import GmmAcousticModel
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.scorers import NETWORK
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import PackOptions, pack_frames
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.training.summary import TrainSummary
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import require_speaker_transforms
from mariana_asr.features.reading import read_feature_dim
from mariana_asr.features.settings import read_feature_settings, settings_of_parts
from mariana_asr.nnet.options import ModelOptions, NetworkOptions
from mariana_asr.recipe.bands import with_bands
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)


def network_front_end(data: DataDir, model: NetworkOptions, gmm_dir: str | Path) -> FrontEnd:
    """The front end of a network that is trained on a data directory.

    Args:
        data: A data directory with features: for adapted ones those of the GMMs, alone or with
            the network's own joined to them.
        model: What the network asks for.
        gmm_dir: A folder with the speaker-adapted GMMs, of their training or of an alignment with
            them, which is looked at for adapted features only.

    Raises:
        DataError: The directory has no usable features.
        FormatError: The GMMs are missing, or were trained on other features.
        RecipeError: A transform is asked for that nothing would be transformed by.
    """
    if not model.adapted:
        return FrontEnd.of(data, model.transform)
    front_end = GmmAcousticModel.load(Path(gmm_dir)).front_end
    settings, beside = read_feature_settings(data.path), None
    parts = settings_of_parts(settings)
    if parts is None and not model.transform_is_default:
        raise RecipeError(
            "model.transform has no effect on adapted features, whose transform is that of the "
            f"GMMs, and {data.path} has no others beside them",
            remedy="Leave it out, or compute features with --beside",
        )
    if parts is not None:
        settings, others = parts
        dim = read_feature_dim(data) - front_end.feature_dim
        beside = FrontEnd(others, dim, model.transform)
    # GMMs by Kaldi do not know what their features were; what the network is trained on is known.
    known = settings if front_end.features is None else front_end.features
    front_end = replace(front_end, features=known, adapted=True, beside=beside)
    front_end.check(data.path)
    return front_end


@dataclass(frozen=True)
class AlignedData:
    """A data directory with the alignments of its utterances.

    Attributes:
        data: The data directory, with features.
        ali_dir: Folder with ``final.mdl`` and the alignments made with it.
        transform_dir: For adapted features, the folder of an alignment of the same data with the
            speaker-adapted GMMs, with the speakers' transforms (``trans.*``); None stands for
            ``ali_dir``.
        prefix: What comes before the ids of its utterances, where other parts have the same ones.
    """

    data: DataDir
    ali_dir: Path
    transform_dir: Path | None = None
    prefix: str = ""

    def front_end(self, model: NetworkOptions) -> FrontEnd:
        """The front end of a network that is trained on it (``network_front_end``)."""
        return network_front_end(self.data, model, self.transform_dir or self.ali_dir)


def pack_aligned_frames(
    parts: Sequence[AlignedData],
    model: NetworkOptions,
    out_dir: str | Path,
    options: PackOptions | None = None,
) -> None:
    """Pack the features of data directories and the pdfs of their alignments into a frame store.

    Args:
        parts: One or several data directories, aligned with the same model.
        model: What the network asks for: what is done to the features before they are stored.
        out_dir: The frame store, with the front end (``front_end.json``) and ``skipped.txt``.
        options: How the frames are stored.

    Raises:
        FormatError: The alignments or the model are missing, damaged, or of another model; or
            there are no transforms, and the network asks for adapted features.
        DataError: There are no features, or those of two parts differ in kind.
        StageError: No utterance has both features and an alignment.
    """
    names = ", ".join(part.data.path.name for part in parts)
    skipped = Skipped(f"packing frames of {names}")
    front_end = parts[0].front_end(model)
    for part in parts[1:]:
        if part.front_end(model) != front_end:
            raise DataError(f"its features differ from those of {names}", where=part.data.path)
    models = [part.ali_dir / "final.mdl" for part in parts]
    num_pdfs = read_transition_model(models[0]).num_pdfs
    for path in models[1:]:
        if path.read_bytes() != models[0].read_bytes():
            raise DataError(f"another model than {models[0]}", where=path)
    pack_frames(
        out_dir,
        (utterance for part in parts for utterance in _aligned(part, front_end, skipped)),
        num_outputs=num_pdfs,
        options=options,
        skipped=skipped,
    )
    front_end.save(out_dir)


def _aligned(
    part: AlignedData, front_end: FrontEnd, skipped: Skipped
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int32]]]:
    """Yield (utterance, features, pdfs) of a part; what cannot be used goes to ``skipped``."""
    transition_model = read_transition_model(part.ali_dir / "final.mdl")
    pdfs = transition_id_to_pdf(transition_model)
    alignments = read_alignments(part.ali_dir)
    speakers = None
    if front_end.adapted:
        transform_dir = part.transform_dir or part.ali_dir
        speakers = require_speaker_transforms(transform_dir)
        front_end.check_speakers(speakers, transform_dir)
    unread = Skipped(skipped.stage)
    for utterance, features in front_end.iterate(part.data, skipped=unread, speakers=speakers):
        name = part.prefix + utterance
        if utterance not in alignments:
            skipped.add(name, f"no alignment in {part.ali_dir}")
            continue
        check_transition_ids(alignments[utterance], transition_model)
        yield name, features, pdfs[alignments[utterance]]
    for utterance, reason in unread.reasons.items():
        skipped.add(part.prefix + utterance, reason)


def train_acoustic_model(
    train_dir: str | Path,
    held_out_dir: str | Path,
    ali_dir: str | Path,
    model: ModelOptions,
    options: TrainOptions,
    engine: EngineOptions,
    out_dir: str | Path,
) -> TrainSummary:
    """Train a network on packed frames and bundle it for decoding.

    ``out_dir`` gets ``nnet.pt`` beside the ``final.mdl`` and ``tree`` whose transition model its
    pdfs belong to, ``phones.txt`` where there is one, and what ``train_network`` writes.

    Args:
        train_dir: Frame store to train on, by ``pack_aligned_frames``.
        held_out_dir: Frame store to watch the training on.
        ali_dir: Folder of the model that aligned them.
        model: The network.
        options: Its training.
        engine: On what it is trained.
        out_dir: Where to write.

    Raises:
        DataError: The stores do not fit each other or the network.
        FormatError: A file is missing or damaged.
        RecipeError: The network needs frequency bands, and the features are none.
        StageError: Training failed.
    """
    # Only here: importing torch takes seconds that other stages need not wait.
    from torch import nn

    from mariana_asr.engine.training.train import train_network
    from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
    from mariana_asr.nnet.build import build_network

    train_dir, ali_dir, out_dir = Path(train_dir), Path(ali_dir), Path(out_dir)
    train, held_out = FrameStore.open(train_dir), FrameStore.open(held_out_dir)
    front_end = FrontEnd.load(train_dir)
    if FrontEnd.load(held_out_dir) != front_end:
        raise DataError(
            f"its features differ from those of {train_dir}",
            where=held_out_dir,
            remedy="Pack both with the same features and the same transform",
        )
    model = with_bands(model, front_end.features, front_end.feature_dim)
    network = build_network(model, train.dim, train.num_outputs, seed=options.seed)
    if hasattr(network, "set_input_statistics"):
        network.set_input_statistics(train.mean, train.std)
    logger.info(
        "training %s on %s frames, watched on %s; %s",
        model.type,
        f"{train.num_frames:,}",
        f"{held_out.num_frames:,}",
        front_end.describe(),
    )
    summary = train_network(
        # A network of this protocol is a module, which mypy has no way to say.
        cast(nn.Module, network),
        train,
        held_out,
        with_mask_bands(options, front_end),
        out_dir,
        engine,
        groups=pdf_groups(ali_dir) if options.loss.needs_groups else None,
    )
    priors = log_priors_from_counts(np.asarray(train.class_counts))
    AcousticModel(network, model, front_end, priors).save(out_dir / NETWORK)
    copy_transition_model(ali_dir, out_dir)
    return summary


def copy_transition_model(model_dir: Path, out_dir: Path) -> None:
    """Copy what a network's pdfs belong to: ``final.mdl``, ``tree``, and ``phones.txt`` if any."""
    phones = ("phones.txt",) if (model_dir / "phones.txt").exists() else ()
    for name in ("final.mdl", "tree", *phones):
        shutil.copyfile(model_dir / name, out_dir / name)


def with_mask_bands(options: TrainOptions, front_end: FrontEnd) -> TrainOptions:
    """The options, with the number of bands that masks over frequency are made of."""
    masks = options.spec_augment
    if masks is None or masks.bands is not None:
        return options
    if masks.frequency_masks and (front_end.features or {}).get("type") != "fbank":
        raise RecipeError(
            "masks over frequency need features that are bands of it, and these are "
            f"{front_end.describe()}",
            where="train.spec_augment.frequency_masks",
            remedy="Give the network filter banks (model.features), or set frequency_masks to 0",
        )
    masks = masks.model_copy(update={"bands": front_end.feature_dim})
    return options.model_copy(update={"spec_augment": masks})


def count_parameters(path: str | Path) -> int:
    """Number of parameters of a network file.

    Raises:
        FormatError: The file is missing, damaged, or something else.
    """
    from mariana_asr.nnet.acoustic_model import AcousticModel

    return sum(p.numel() for p in AcousticModel.load(path).network.parameters())
