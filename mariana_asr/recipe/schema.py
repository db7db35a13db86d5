"""The schema of a recipe: one section a room, made of the options that the rooms declare."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mariana_asr.align.alignment import AlignOptions
from mariana_asr.align.pronunciations.probabilities import PronunciationOptions
from mariana_asr.align.training.lda_mllt import LdaMlltOptions
from mariana_asr.align.training.mono import MonoOptions
from mariana_asr.align.training.sat import SatOptions
from mariana_asr.align.training.triphone import DeltasOptions
from mariana_asr.corpus.prepare import PreparerOptions
from mariana_asr.decode.options import Alignments, DecodeOptions
from mariana_asr.engine.options import EngineOptions, SequenceOptions, TrainOptions
from mariana_asr.features.augmentation.options import AugmentationOptions
from mariana_asr.features.frames import frame_differences
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.features.options import FeatureOptions
from mariana_asr.lang.options import GraphOptions, LangOptions, LmOptions
from mariana_asr.nnet.options import DnnOptions, ModelOptions
from mariana_asr.nnet.options.pretrainable import pretraining_problem
from mariana_asr.options import Options, default_tag, narrowed
from mariana_asr.score.candidates import Criterion
from mariana_asr.score.results import Metric

DEFAULT_KEPT_EPOCHS = 5
"""Epochs among which the error rate on the dev set decides, where a recipe does not say."""

SEQUENCE_NETWORK = "dnn_seq"
"""The network that is trained on lattices."""


class LangSection(LangOptions):
    """The lexicon, the phones and the language model."""

    lexicon: Path | None = None
    """A lexicon.txt, or a directory in Kaldi's dict form; by default the corpus's own."""
    lm: LmOptions | None = None
    """The language model; by default the corpus's own ARPA file, or a trigram of the training
    transcripts where the corpus has none."""
    graph: GraphOptions = GraphOptions()
    """How the decoding graph is made."""


class KaldiAlignments(Options):
    """Alignments that Kaldi made, to train the network on."""

    ali: Path
    """A directory with ali.*.gz (or an archive of alignments), final.mdl and tree: exp/tri3_ali."""
    lang: Path
    """The lang directory that they were made with, with G.fst unless `lang.lm` names a model."""


class AlignSection(Options):
    """GMM-HMM training, and the alignments that the network learns from.

    Each GMM system is trained on the alignments of the one before it; those that a recipe does
    not name are left out. The last one aligns the training and the dev set for the network.
    """

    mono: MonoOptions = MonoOptions()
    """Training of the monophone system."""
    tri1: DeltasOptions | None = None
    """Training of triphones on features with deltas; `{}` takes the defaults."""
    tri2: LdaMlltOptions | None = None
    """Training of triphones on LDA+MLLT features; `{}` takes the defaults."""
    tri3: SatOptions | None = None
    """Training of triphones on speaker-adapted features; `{}` takes the defaults."""
    kaldi: KaldiAlignments | None = None
    """Take Kaldi's alignments, and train no GMM."""
    labels: AlignOptions = AlignOptions()
    """Alignment of the training and the dev set with the last GMM."""
    pronunciations: PronunciationOptions | None = None
    """Learn probabilities of pronunciations and of silence from these alignments, for the graph
    that the network is decoded with; `{}` takes the defaults."""
    realign: AlignOptions | None = None
    """Align both sets anew with the network and train a second one, dnn2, on that; `{}` takes the
    defaults."""

    @property
    def rungs(self) -> list[str]:
        """The GMM systems in order; none where Kaldi's alignments are taken."""
        if self.kaldi is not None:
            return []
        return ["mono", *(name for name in ("tri1", "tri2", "tri3") if getattr(self, name))]

    @property
    def networks(self) -> list[str]:
        """The networks that are trained on frames, in order."""
        return ["dnn", "dnn2"] if self.realign is not None else ["dnn"]

    @model_validator(mode="after")
    def _check(self) -> "AlignSection":
        trained = [name for name in ("tri1", "tri2", "tri3") if getattr(self, name)]
        if self.kaldi is not None and trained:
            raise ValueError(f"with kaldi no GMM is trained: leave out {', '.join(trained)}")
        if self.kaldi is not None and self.pronunciations is not None:
            raise ValueError("pronunciations need our own lexicon: leave out kaldi or them")
        return self


class NetworkSections(Options):
    """The sections that decide a network, where it is trained without a recipe."""

    model: ModelOptions = DnnOptions()
    train: TrainOptions = TrainOptions()
    engine: EngineOptions = EngineOptions()

    @model_validator(mode="after")
    def _check(self) -> "NetworkSections":
        _check_pretraining(self.model, self.train)
        return self


class TrainSection(TrainOptions):
    """Training of a network on frames, and which of its weights it ends with.

    With SGD, ``learning_rate`` and ``l2_penalty`` are rates per frame, as in Kaldi's nnet1: a step
    moves the weights by the learning rate times the *sum* of the minibatch's gradients. (Kaldi's
    0.008 at a minibatch of 256 is 2.048 where losses are averaged.) A larger minibatch thus takes
    proportionally larger steps; no rate has to be scaled by hand. The adaptive optimisers take the
    minibatch's mean gradient, and their rates are per step.
    """

    select: Criterion = "loss"
    """What decides which weights a network ends with: its held-out loss, or (``wer``) the error
    rate on the dev set, by the first of `score.metrics`; then every kept epoch and average decodes
    the dev set."""
    average: int = Field(default=0, ge=0)
    """Also consider the averages of the weights of the last 2, 3, ... up to so many kept epochs
    (Izmailov et al. 2018). Without `keep_epochs`, as many are kept."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSection":
        if 0 < self.keep_epochs < self.average:
            raise ValueError(
                f"average is {self.average}, but keep_epochs is {self.keep_epochs}: "
                "only epochs that are kept can be averaged"
            )
        return self

    @property
    def num_kept_epochs(self) -> int:
        """How many epochs are kept: by default what is needed to select and to average."""
        needed = DEFAULT_KEPT_EPOCHS if self.select == "wer" else 0
        return self.keep_epochs or max(needed, self.average if self.average > 1 else 0)

    @property
    def engine_options(self) -> TrainOptions:
        """What the engine is told."""
        options = narrowed(self, TrainOptions)
        return options.model_copy(update={"keep_epochs": self.num_kept_epochs})


class DecodeSection(DecodeOptions):
    """How sets are decoded, and which; the beams' defaults are those of Kaldi's steps/decode.sh.

    Wider ones (16 and 10 are latgen-faster-mapped's own) lose less of what a high LM weight would
    choose and take half as long again. There is no ``max_active``: the lattice decoder of
    kaldi-decoder prunes by beam alone.
    """

    sets: tuple[str, ...] | None = None
    """The sets that are decoded and scored; by default all but the training set. `[dev]` leaves
    the test sets alone while choices are made. `dev` must be among them: the language-model weight
    and the word insertion penalty are chosen on it."""

    @field_validator("sets")
    @classmethod
    def _has_dev(cls, sets: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if sets is not None and "dev" not in sets:
            raise ValueError("must have dev among them, on which the decoding weights are chosen")
        return None if sets is None else tuple(dict.fromkeys(sets))


class LatticeSection(Options):
    """The lattices that sequence training learns from."""

    lm_order: int = Field(default=1, ge=1, le=9)
    """Longest n-gram of their language model, which is trained on the training transcripts. A weak
    one lets more words compete."""
    beam: float = Field(default=13.0, gt=0)
    """As `decode.beam`."""
    lattice_beam: float = Field(default=7.0, gt=0)
    """As `decode.lattice_beam`."""
    alignments: Alignments = "best"
    """Whether a word sequence competes with its best alignment alone (``best``, as in Kaldi), or
    with all that are within the beam."""


class SequenceSection(SequenceOptions):
    """Training of the last network on whole utterances with lattices: the system dnn_seq.

    Rates and their meaning are those of training on frames, and gradients leave the acoustic scale
    out, as Kaldi's nnet1 programs do: with SGD, Kaldi's 0.00001 is 0.00001 here. The network stays
    as it is at work: no dropout, and batch norm with the statistics that it was trained with.
    """

    lattices: LatticeSection = LatticeSection()
    """How lattices are made."""
    realign: bool = True
    """Align both sets with the network that training begins with, for the reference (with the
    options of `align.realign`, or their defaults); else the reference is what that was trained
    on."""
    prior_scale: float | None = Field(default=None, ge=0)
    """What log-priors are multiplied by, in that alignment, in the search for lattices and in
    training; by default as in decoding."""


class ScoreSection(Options):
    """Error rates."""

    metrics: tuple[Metric, ...] = Field(default=("wer",), min_length=1)
    """``wer`` counts words, ``cer`` characters."""


class Recipe(Options):
    """An experiment: everything that decides its outputs."""

    name: str
    """Name of the experiment; its outputs go to ``exp/NAME``. By default the recipe's name."""
    corpus: Annotated[PreparerOptions, BeforeValidator(default_tag("preparer", "kaldi_dirs"))]
    """Where recordings and transcripts come from."""
    features: Annotated[FeatureOptions, BeforeValidator(default_tag("type", "mfcc"))] = (
        MfccOptions()
    )
    """Acoustic features, with Kaldi's option names."""
    augmentation: AugmentationOptions | None = None
    """Variants of the training set: speeds, rooms, noise and volumes; `{}` takes the defaults:
    copies at other speeds."""
    lang: LangSection = LangSection()
    align: AlignSection = AlignSection()
    model: ModelOptions = DnnOptions()
    train: TrainSection = TrainSection()
    sequence: SequenceSection | None = None
    """Sequence training of the last network, as the system dnn_seq; `{}` takes the defaults."""
    engine: EngineOptions = EngineOptions()
    decode: DecodeSection = DecodeSection()
    score: ScoreSection = ScoreSection()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.align.kaldi is not None and self.lang.lexicon is not None:
            raise ValueError("align.kaldi.lang has a lexicon already: leave out lang.lexicon")
        _check_pretraining(self.model, self.train)
        self._check_network_features()
        return self

    @property
    def networks(self) -> list[str]:
        """The networks in order."""
        return [*self.align.networks, *([SEQUENCE_NETWORK] if self.sequence is not None else [])]

    @property
    def systems(self) -> list[str]:
        """Everything that is decoded: GMM systems and networks."""
        return [*self.align.rungs, *self.networks]

    @property
    def realigns(self) -> bool:
        """Whether a network aligns the training set."""
        return self.align.realign is not None or (
            self.sequence is not None and self.sequence.realign
        )

    @property
    def sequence_prior_scale(self) -> float:
        """What log-priors are multiplied by in sequence training."""
        own = None if self.sequence is None else self.sequence.prior_scale
        return self.decode.prior_scale if own is None else own

    @property
    def has_speed_copies(self) -> bool:
        """Whether the network is trained on copies of the training set at other speeds."""
        return self.augmentation is not None and self.augmentation.perturbs_speed

    @property
    def distorts(self) -> bool:
        """Whether the network is trained on distorted audio."""
        return self.augmentation is not None and self.augmentation.distorts

    @property
    def adapting_stage(self) -> str:
        """The stage whose decoding estimates the transforms for networks on adapted features."""
        return f"decode_{'ali' if self.align.kaldi is not None else self.align.rungs[-1]}"

    def _check_network_features(self) -> None:
        """Check that the stages before can give the network what it asks for."""
        if self.model.adapted:
            if self.align.tri3 is None and self.align.kaldi is None:
                raise ValueError(
                    "model.adapted needs GMMs that are adapted to speakers: train align.tri3, or "
                    "name Kaldi's in align.kaldi"
                )
            if self.model.features is None and not self.model.transform_is_default:
                raise ValueError(
                    "model.transform has no effect on adapted features, whose transform is that of "
                    "the GMMs: leave it out, or name model.features to stand beside them"
                )
            if not self.decode.adapt:
                raise ValueError(
                    "model.adapted needs the transforms that decoding with the GMMs estimates: "
                    "set decode.adapt to true"
                )
        if self.model.features is not None:
            differences = frame_differences(self.features, self.model.features)
            if differences:
                name, (theirs, own) = next(iter(differences.items()))
                raise ValueError(
                    f"model.features.{name} is {own}, features.{name} is {theirs}: the network's "
                    "frames must be those that the GMMs align, so give both the same value"
                )

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[\w][\w.+-]*", name):
            raise ValueError("must be letters, digits and . _ + - (it names a folder)")
        return name


def _check_pretraining(model: ModelOptions, train: TrainOptions) -> None:
    if train.pretraining is not None:
        problem = pretraining_problem(model, train.pretraining.type)
        if problem is not None:
            raise ValueError(f"train.pretraining: {problem[0]}. {problem[1]}")
