"""Options of decoding."""

from typing import Annotated, Literal

from pydantic import Field

from mariana_asr.options import Options

PositiveWeight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Penalty = Annotated[float, Field(allow_inf_nan=False)]
UpdateType = Literal["full", "diag", "offset", "none"]
Alignments = Literal["best", "all"]


class DecodeOptions(Options):
    """How a test set is decoded; the beams' defaults are those of Kaldi's ``steps/decode.sh``.

    Wider ones (16 and 10 are latgen-faster-mapped's own) lose less of what a high LM weight would
    choose and take half as long again. There is no ``max_active``: the lattice decoder of
    kaldi-decoder prunes by beam alone.
    """

    beam: float = Field(default=13.0, gt=0)
    """Paths this much worse than the best one are dropped during the search; wider is slower."""

    lattice_beam: float = Field(default=6.0, gt=0)
    """Paths up to this much worse than the best whole path stay in the lattice."""

    acoustic_scale: float = Field(default=0.083333, gt=0)
    """Weight of acoustic log-likelihoods during the search (1/12, as in ``steps/decode.sh``)."""

    prior_scale: float = Field(default=0.7, ge=0)
    """What a network's log-priors are multiplied by before they are subtracted from its
    log-posteriors (nnet-forward's --prior-scale, there 1.0); a GMM has none. Where training data
    are few, whole priors favour rare pdfs: on AN4's dev speakers 0.7 did better than 1.0 with
    each of five networks (recipes/an4)."""

    lm_weights: tuple[PositiveWeight, ...] = Field(
        default=tuple(float(weight) for weight in range(4, 18)), min_length=1
    )
    """Language-model weights tried on each lattice: acoustic costs are divided by the weight.
    Kaldi's recipes try 7 to 17 for GMMs and 4 to 15 for networks; these are both."""

    word_insertion_penalties: tuple[Penalty, ...] = Field(default=(0.0, 0.5, 1.0), min_length=1)
    """Costs a word tried on each lattice."""

    adapt: bool = True
    """Adapt a speaker-adapted model (one with a ``final.alimdl``) to each speaker by fMLLR, as
    Kaldi's ``steps/decode_fmllr.sh`` does; without it such a model's ``final.alimdl`` decodes."""

    first_beam: float = Field(default=10.0, gt=0)
    """The beam of the search that adaptation starts from."""

    silence_weight: float = Field(default=0.01, ge=0, le=1)
    """What a frame of silence counts for in adaptation, where one of speech counts for 1."""

    fmllr_update_type: UpdateType = "full"
    """What of a speaker's transform is estimated: a whole matrix, scales and offsets (diag),
    offsets only, or nothing (none)."""

    fmllr_min_count: float = Field(default=500.0, ge=0)
    """A speaker with no more weighted frames than this is not adapted."""

    write_lattices: bool = False
    """Also write ``lat.1.gz``: state-level lattices with unscaled acoustic costs, for Kaldi."""

    @property
    def settings(self) -> list[tuple[float, float]]:
        """Every (language-model weight, word insertion penalty)."""
        return [
            (weight, penalty)
            for weight in self.lm_weights
            for penalty in self.word_insertion_penalties
        ]
