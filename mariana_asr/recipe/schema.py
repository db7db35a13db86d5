"""The schema of a recipe: one section a room, made of the options that the rooms declare."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from mariana_asr.align.alignment import AlignOptions
from mariana_asr.align.mono import MonoOptions
from mariana_asr.corpus.prepare import PreparerOptions
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.engine.options import TrainOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.features.options import FeatureOptions
from mariana_asr.lang.options import GraphOptions, LangOptions, LmOptions
from mariana_asr.nnet.options import DnnOptions
from mariana_asr.options import Options, default_tag
from mariana_asr.score.results import Metric


class LangSection(LangOptions):
    """The lexicon, the phones and the language model."""

    lexicon: Path | None = None
    """A lexicon.txt, or a directory in Kaldi's dict form; by default the corpus's own."""
    lm: LmOptions | None = None
    """The language model; by default the corpus's own ARPA file, or a trigram of the training
    transcripts where the corpus has none."""
    graph: GraphOptions = GraphOptions()
    """How the decoding graph is made."""


class AlignSection(Options):
    """GMM-HMM training and the alignment of the held-out set with it."""

    mono: MonoOptions = MonoOptions()
    """Training of the monophone system."""
    held_out: AlignOptions = AlignOptions()
    """Alignment of the dev set, on which the network's training is watched."""


class NetworkSections(Options):
    """The sections that decide a network, where it is trained without a recipe."""

    model: DnnOptions = DnnOptions()
    train: TrainOptions = TrainOptions()


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
    lang: LangSection = LangSection()
    align: AlignSection = AlignSection()
    model: DnnOptions = DnnOptions()
    train: TrainOptions = TrainOptions()
    decode: DecodeOptions = DecodeOptions()
    score: ScoreSection = ScoreSection()

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[\w][\w.+-]*", name):
            raise ValueError("must be letters, digits and . _ + - (it names a folder)")
        return name
