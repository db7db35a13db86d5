"""Sequence training in a recipe: what joins lang, decode, nnet and engine."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.align.pdf_groups import pdf_groups
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.scorers import NETWORK
from mariana_asr.decode.training_lattices import make_training_lattices
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.options import EngineOptions, SequenceOptions
from mariana_asr.engine.training.summary import TrainSummary
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.langdir import read_lang
from mariana_asr.lang.options import NgramLm
from mariana_asr.options import narrowed
from mariana_asr.recipe.network import copy_transition_model
from mariana_asr.recipe.schema import Recipe, SequenceSection
from mariana_asr.recipe.sets import DEV, TRAIN, ExperimentSets


class SequenceWork:
    """The work of the stages of sequence training; each method is given the folder to fill."""

    def __init__(self, recipe: Recipe, folder: Path, sets: ExperimentSets, *, jobs: int) -> None:
        """Arguments as of ``Experiment``, and the sets of the experiment."""
        self._recipe, self._folder, self._sets, self._jobs = recipe, folder, sets, jobs

    @property
    def _section(self) -> SequenceSection:
        assert self._recipe.sequence is not None, "the stages are only there if it is asked for"
        return self._recipe.sequence

    def lang(self, lang: str, out: Path) -> None:
        """A lang directory with a weak language model."""
        transcripts = self._sets.gmm(TRAIN).text.values()
        make_weak_lang(self._folder / lang, self._section.lattices.lm_order, transcripts, out)

    def lattices(self, network: str, frames: str, graph: str, out: Path) -> None:
        """Lattices of the training and the dev set."""
        section = self._section
        options = DecodeOptions(
            beam=section.lattices.beam,
            lattice_beam=section.lattices.lattice_beam,
            acoustic_scale=section.acoustic_scale,
            prior_scale=self._recipe.sequence_prior_scale,
        )
        for name in (TRAIN, DEV):
            make_training_lattices(
                FrameStore.open(self._folder / frames / name),
                self._folder / network,
                self._folder / graph,
                out / name,
                options,
                alignments=section.lattices.alignments,
                jobs=self._jobs,
            )

    def network(self, start: str, frames: str, lattices: str, out: Path) -> None:
        """The network."""
        train_on_sequences(
            self._folder / start,
            self._folder / frames,
            self._folder / lattices,
            self._folder / "lang",
            narrowed(self._section, SequenceOptions),
            self._recipe.engine,
            out,
            prior_scale=self._recipe.sequence_prior_scale,
        )


def make_weak_lang(lang_dir: Path, order: int, sentences: Iterable[str], out: Path) -> None:
    """Copy a lang directory, and put an n-gram model of transcripts in the place of its own.

    Lattices to train on come from a weaker language model than that of recognition, so that more
    words compete in them.

    Raises:
        MarianaError: The lang directory is damaged, or there is nothing to train on.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (
        "L.fst",
        "L_disambig.fst",
        "oov.int",
        "oov.txt",
        "phones.txt",
        "topo",
        "words.txt",
    ):
        if (lang_dir / name).exists():
            shutil.copyfile(lang_dir / name, out / name)
    shutil.copytree(lang_dir / "phones", out / "phones", dirs_exist_ok=True)
    make_grammar(out, NgramLm(order=order), sentences)


def right_groups(model_dir: Path, lang_dir: Path, options: SequenceOptions) -> NDArray[np.int64]:
    """Which pdfs count as the same when frames are right or wrong.

    For sMBR each is one of its own, for MMI those of a phone are the same; and all of silence and
    noise always are (Kaldi's --one-silence-class=true).

    Args:
        model_dir: Folder with ``final.mdl`` and ``phones.txt``.
        lang_dir: The lang directory, which knows the phones of silence.
        options: The criterion.

    Returns:
        (P,) number of each pdf's group.
    """
    model = read_transition_model(model_dir / "final.mdl")
    pdfs, silence = transition_id_to_pdf(model), set(read_lang(lang_dir).silence_phones)
    groups = np.arange(model.num_pdfs) if options.criterion == "smbr" else pdf_groups(model_dir)
    silent = [
        int(groups[pdfs[transition_id]])
        for transition_id in range(1, model.num_transition_ids + 1)
        if model.transition_id_to_phone(transition_id) in silence
    ]
    groups[np.isin(groups, silent)] = min(silent)
    return groups.astype(np.int64)


def train_on_sequences(
    start_dir: Path,
    frames_dir: Path,
    lattices_dir: Path,
    lang_dir: Path,
    options: SequenceOptions,
    engine: EngineOptions,
    out_dir: Path,
    *,
    prior_scale: float,
) -> TrainSummary:
    """Train the network of a folder on lattices, and bundle it for decoding.

    ``out_dir`` gets what a folder of a trained network has.

    Args:
        start_dir: Folder of the network to begin with.
        frames_dir: Folder with the frame stores ``train`` and ``dev``.
        lattices_dir: Folder with their lattice stores.
        lang_dir: The lang directory.
        options: The training.
        engine: On what the network is trained.
        out_dir: Where to write.
        prior_scale: What log-priors are multiplied by.

    Raises:
        DataError: Frames, lattices and network do not fit each other.
        FormatError: A file is missing or damaged.
        StageError: Training failed.
    """
    # Only here: importing torch takes seconds that other stages need not wait.
    from torch import nn

    from mariana_asr.engine.sequence.lattice_store import LatticeStore
    from mariana_asr.engine.sequence.source import LatticeData
    from mariana_asr.engine.sequence.train import train_on_lattices
    from mariana_asr.nnet.acoustic_model import AcousticModel

    model = AcousticModel.load(start_dir / NETWORK)
    train, held_out = (
        LatticeData(FrameStore.open(frames_dir / name), LatticeStore.open(lattices_dir / name))
        for name in (TRAIN, DEV)
    )
    summary = train_on_lattices(
        # A network of this protocol is a module, which mypy has no way to say.
        cast(nn.Module, model.network),
        train,
        held_out,
        prior_scale * model.log_priors,
        options,
        out_dir,
        engine,
        groups=right_groups(start_dir, lang_dir, options),
    )
    trained = AcousticModel(model.network, model.options, model.front_end, model.log_priors)
    trained.save(out_dir / NETWORK)
    copy_transition_model(start_dir, out_dir)
    return summary
