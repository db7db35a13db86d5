"""From features and alignments to a trained acoustic model: what joins align, nnet and engine."""

import logging
import shutil
from pathlib import Path

import numpy as np

from mariana_asr.align.alignment import read_alignments
from mariana_asr.align.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.engine.frame_store import FrameStore
from mariana_asr.engine.options import TrainOptions
from mariana_asr.engine.packing import FrameStoreWriter
from mariana_asr.engine.summary import TrainSummary
from mariana_asr.errors import DataError
from mariana_asr.features.front_end import FrontEnd, TransformOptions, read_utterance_features
from mariana_asr.nnet.options import DnnOptions
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)


def pack_frames(
    data: DataDir, ali_dir: str | Path, transform: TransformOptions, out_dir: str | Path
) -> None:
    """Pack a data directory's features and the pdfs of its alignments into a frame store.

    Args:
        data: A data directory with features.
        ali_dir: Folder with ``final.mdl`` and the alignments made with it.
        transform: What is done to the features before they are stored.
        out_dir: The frame store, with the front end (``front_end.json``) and ``skipped.txt``.

    Raises:
        FormatError: The alignments or the model are missing or damaged.
        DataError: The alignments belong to another model.
        StageError: No utterance has both features and an alignment.
    """
    ali_dir, out_dir = Path(ali_dir), Path(out_dir)
    pdfs = transition_id_to_pdf(read_transition_model(ali_dir / "final.mdl"))
    alignments = read_alignments(ali_dir)
    front_end = FrontEnd.of(data, transform)
    skipped = Skipped(f"packing frames of {data.path.name}")
    writer = FrameStoreWriter(out_dir, num_outputs=int(pdfs.max()) + 1, skipped=skipped)
    with writer:
        for utterance in data.utterances:
            if utterance not in alignments:
                skipped.add(utterance, f"no alignment in {ali_dir}")
                continue
            transition_ids = alignments[utterance]
            if transition_ids.min(initial=1) < 1 or transition_ids.max(initial=1) >= len(pdfs):
                raise DataError(
                    f"utterance {utterance} has transition id {transition_ids.max()}, the model "
                    f"has {len(pdfs) - 1}",
                    where=ali_dir,
                    remedy="Use the alignments and the final.mdl that belong together",
                )
            try:
                features = read_utterance_features(data, utterance, transform)
            except DataError as error:
                skipped.add(utterance, str(error))
                continue
            writer.add(utterance, features, pdfs[transition_ids])
    skipped.finish(out_dir / "skipped.txt", writer.num_utterances)
    front_end.save(out_dir)


def train_acoustic_model(
    train_dir: str | Path,
    held_out_dir: str | Path,
    ali_dir: str | Path,
    model: DnnOptions,
    options: TrainOptions,
    out_dir: str | Path,
) -> TrainSummary:
    """Train a network on packed frames and bundle it for decoding.

    ``out_dir`` gets ``nnet.pt`` beside the ``final.mdl`` and ``tree`` whose transition model its
    pdfs belong to, and what ``train_network`` writes.

    Args:
        train_dir: Frame store to train on, by ``pack_frames``.
        held_out_dir: Frame store to watch the training on.
        ali_dir: Folder of the model that aligned them.
        model: The network.
        options: Its training.
        out_dir: Where to write.

    Raises:
        DataError: The stores do not fit each other or the network.
        FormatError: A file is missing or damaged.
        StageError: Training failed.
    """
    # Only here: importing torch takes seconds that other stages need not wait.
    from mariana_asr.engine.training import train_network
    from mariana_asr.nnet.acoustic_model import (
        AcousticModel,
        build_network,
        log_priors_from_counts,
    )

    train_dir, ali_dir, out_dir = Path(train_dir), Path(ali_dir), Path(out_dir)
    train, held_out = FrameStore.open(train_dir), FrameStore.open(held_out_dir)
    front_end = FrontEnd.load(train_dir)
    if FrontEnd.load(held_out_dir) != front_end:
        raise DataError(
            f"its features differ from those of {train_dir}",
            where=held_out_dir,
            remedy="Pack both with the same features and the same transform",
        )
    network = build_network(model, train.dim, train.num_outputs, seed=options.seed)
    network.set_input_statistics(train.mean, train.std)
    logger.info(
        "training %s on %s frames, watched on %s; %s",
        model.type,
        f"{train.num_frames:,}",
        f"{held_out.num_frames:,}",
        front_end.describe(),
    )
    summary = train_network(network, train, held_out, options, out_dir)
    priors = log_priors_from_counts(np.asarray(train.class_counts))
    AcousticModel(network, model, front_end, priors).save(out_dir / "nnet.pt")
    for name in ("final.mdl", "tree"):
        shutil.copyfile(ali_dir / name, out_dir / name)
    return summary
