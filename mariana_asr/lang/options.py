"""Options of the lang directory, the language model and the decoding graph."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from mariana_asr.options import Options


class LangOptions(Options):
    """How a lang directory is built; names and defaults of Kaldi's prepare_lang.sh."""

    position_dependent_phones: bool = True
    """Mark phones with their place in the word: ``_B``, ``_I``, ``_E`` and ``_S``."""

    num_sil_states: int = Field(default=5, ge=1, le=100)
    """HMM states of a silence phone: 1, or 3 and more."""

    num_nonsil_states: int = Field(default=3, ge=1, le=100)
    """HMM states of a phone of speech."""

    share_silence_phones: bool = False
    """Let all silence phones share their pdfs; only their transitions differ then."""

    sil_prob: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Probability of silence between words; 0 allows none. Not used where the dictionary has
    lexiconp_silprob.txt, which tells it word by word."""

    oov: str = Field(default="<UNK>", pattern=r"^\S+$")
    """The word that words outside of the dictionary become."""

    num_extra_phone_disambig_syms: int = Field(default=1, ge=1)
    """Disambiguation symbols beyond those of homophones; the last one marks silence."""

    @field_validator("num_sil_states")
    @classmethod
    def _no_two_states(cls, value: int) -> int:
        if value == 2:
            raise ValueError("a silence phone has 1 state, or 3 and more")
        return value


class ArpaLm(Options):
    """A language model that exists already."""

    type: Literal["arpa"] = "arpa"
    path: Path
    """ARPA file, plain or gzipped."""


class NgramLm(Options):
    """An n-gram model trained on transcripts (interpolated Witten-Bell).

    Where the dictionary has word_counts.txt, counts of words in a large text, words that the
    transcripts lack are as likely as those say; otherwise all are alike.
    """

    type: Literal["ngram"] = "ngram"
    order: int = Field(default=3, ge=1, le=9)
    """Longest n-gram."""


class WordLoopLm(Options):
    """Any string of words, each word as likely as any other."""

    type: Literal["word_loop"] = "word_loop"
    words: list[str] | None = None
    """The words of the loop; all words of the lang directory where this is null."""
    end_prob: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Probability that the string ends after a word; as likely as one word where null."""


class SingleWordLm(Options):
    """Exactly one word, each as likely as any other."""

    type: Literal["single_word"] = "single_word"
    words: list[str] | None = None
    """The words to choose from; all words of the lang directory where this is null."""


LmOptions = Annotated[ArpaLm | NgramLm | WordLoopLm | SingleWordLm, Field(discriminator="type")]


class GraphOptions(Options):
    """How HCLG is built; names and defaults of Kaldi's mkgraph.sh."""

    transition_scale: float = Field(default=1.0, ge=0.0)
    """Scale on the log-probabilities of transitions between HMM states."""

    self_loop_scale: float = Field(default=0.1, ge=0.0)
    """Scale on the log-probabilities of staying in an HMM state or leaving it."""

    remove_oov: bool = False
    """Take paths with the unknown word out of the graph."""
