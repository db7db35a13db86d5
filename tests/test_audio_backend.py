import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from mariana_asr.audio_backend import torchaudio
from mariana_asr.errors import MissingPackageError


@pytest.fixture
def reimport(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test import torchaudio anew, and put the modules back afterwards."""
    saved = dict(sys.modules)
    for name in saved:
        if name.partition(".")[0] == "torchaudio" or name == "mariana_asr.audio_backend":
            monkeypatch.delitem(sys.modules, name)
    yield monkeypatch
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules.update(saved)


def test_resampling_keeps_a_tone_below_the_new_band_and_removes_one_above():
    seconds = torch.arange(22050) / 22050
    low, high = torch.sin(2 * torch.pi * 1000 * seconds), torch.sin(2 * torch.pi * 6000 * seconds)
    resampled = torchaudio.functional.resample(torch.stack([low, high]), 22050, 8000).numpy()
    expected = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    assert resampled.shape == (2, 8000)
    np.testing.assert_allclose(resampled[0, 200:-200], expected[200:-200], atol=2e-3)
    assert np.abs(resampled[1, 200:-200]).max() < 1e-2


def test_kaldis_features_and_augmentation_are_there():
    assert torchaudio.compliance.kaldi.fbank(torch.zeros(1, 1600)).shape == (8, 23)
    assert torchaudio.transforms.FrequencyMasking(5)(torch.ones(1, 20, 10)).shape == (1, 20, 10)


def test_an_extension_that_does_not_load_is_left_out(reimport):
    real = importlib.import_module
    failures = []

    def without_extension(name: str, *arguments: object) -> ModuleType:
        if name == "torchaudio" and "torchaudio._extension" not in sys.modules:
            failures.append(name)
            sys.modules["torchaudio.partial"] = ModuleType("torchaudio.partial")
            raise OSError("libc10_cuda.so: cannot open shared object file")
        return real(name, *arguments)

    reimport.setattr(importlib, "import_module", without_extension)
    backend = real("mariana_asr.audio_backend")
    assert failures == ["torchaudio"]
    assert "torchaudio.partial" not in sys.modules
    assert backend.torchaudio.functional.resample(torch.zeros(160), 16000, 8000).shape == (80,)
    with pytest.raises(MissingPackageError, match="forced_align needs its compiled extension"):
        backend.torchaudio.functional.forced_align(torch.zeros(1, 2, 3), torch.zeros(1, 1))


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("no space")])
def test_another_failure_is_reported_and_not_hidden(reimport, error):
    real = importlib.import_module

    def failing(name: str, *arguments: object) -> ModuleType:
        if name == "torchaudio":
            raise error
        return real(name, *arguments)

    reimport.setattr(importlib, "import_module", failing)
    with pytest.raises(MissingPackageError, match=str(error)):
        real("mariana_asr.audio_backend")


def test_an_error_in_torchaudio_itself_is_not_swallowed(reimport):
    real = importlib.import_module

    def broken(name: str, *arguments: object) -> ModuleType:
        if name == "torchaudio":
            raise RuntimeError("operator does not exist")
        return real(name, *arguments)

    reimport.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="operator does not exist"):
        real("mariana_asr.audio_backend")
