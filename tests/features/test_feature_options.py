"""What a user may ask for, and what the answer to a mistake is."""

from typing import Any

import pytest

from mariana_asr.errors import RecipeError
from mariana_asr.features.options import feature_options


def test_defaults_are_kaldis() -> None:
    mfcc, fbank = feature_options({}), feature_options({"type": "fbank"})
    for options in (mfcc, fbank):
        assert options.sample_frequency == 16000
        assert (options.frame_length, options.frame_shift) == (25, 10)
        assert (options.num_mel_bins, options.low_freq, options.high_freq) == (23, 20, 0)
        assert options.preemphasis_coefficient == 0.97
        assert options.window_type == "povey"
        assert options.snip_edges
        assert options.remove_dc_offset
        assert options.energy_floor == 0
    assert (mfcc.type, mfcc.use_energy, mfcc.dim) == ("mfcc", True, 13)
    assert (fbank.type, fbank.use_energy, fbank.dim) == ("fbank", False, 23)
    assert feature_options({"type": "fbank", "use_energy": True}).dim == 24


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"type": "plp13"}, "'plp13'.*mfcc, fbank"),
        ({"num_mel_bin": 40}, "num_mel_bin: unknown key; did you mean 'num_mel_bins'"),
        ({"type": "fbank", "num_ceps": 13}, "num_ceps: unknown key"),
        ({"num_ceps": 30}, "num_ceps 30 exceeds num_mel_bins 23"),
        ({"num_mel_bins": 2}, "greater than or equal to 3"),
        ({"type": "fbank", "num_mel_bins": 200}, "num_mel_bins 200 is too large"),
        ({"low_freq": 9000}, "from 9000 to 8000 Hz do not fit"),
        ({"high_freq": 9000}, "from 20 to 9000 Hz"),
        ({"sample_frequency": 8000, "high_freq": -4000}, "from 20 to 0 Hz"),
        ({"frame_shift": 0}, "frame_shift: .*0"),
        ({"frame_shift": 0.01}, "too short"),
        ({"sample_frequency": -1}, "sample_frequency: .*-1"),
        ({"window_type": "hann"}, "window_type: .*'hann'"),
        ({"round_to_power_of_two": False, "frame_length": 25.0625}, "401 samples.*even"),
        ({"dither": -1}, "dither: .*-1"),
        ({"sample_frequency": "fast"}, "sample_frequency: .*'fast'"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"command line: (.|\n)*{message}"):
        feature_options(tree)


@pytest.mark.parametrize("num_mel_bins", range(60, 140, 4))
def test_filters_are_refused_exactly_where_the_library_would_refuse_them(num_mel_bins: int) -> None:
    import kaldi_native_fbank

    native = kaldi_native_fbank.FbankOptions()
    native.mel_opts.num_bins = num_mel_bins
    try:
        kaldi_native_fbank.OnlineFbank(native)
    except ValueError:
        with pytest.raises(RecipeError, match="too large"):
            feature_options({"type": "fbank", "num_mel_bins": num_mel_bins})
    else:
        feature_options({"type": "fbank", "num_mel_bins": num_mel_bins})
