"""GMMs through torch, on every device there is, against plain computations in double."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from plain_statistics import plain_statistics
from small_gmms import log_densities, random_gmms, sample

from mariana_asr.align.gmm import device as gmm_device
from mariana_asr.align.gmm.device import DeviceGmms, find_gpu, on_device
from mariana_asr.align.gmm.estimation import GmmStats
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.errors import StageError

COUNTS = [3, 1, 17, 3, 1, 19, 70, 5, 2]
DIM = 5
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture
def gmms() -> DiagGmms:
    return random_gmms(DIM, counts=COUNTS, spread=1)


def uneven_frames(gmms: DiagGmms, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Some pdfs have many frames, others a single one or none."""
    feats, pdfs = sample(gmms, count)
    pdfs[: count // 2] = 5
    pdfs[pdfs == 4] = 6
    pdfs[-1] = 4
    pdfs[pdfs == 1] = 0
    return feats, pdfs


@pytest.mark.parametrize("floats_at_once", [1, 20_000, 2**26])
def test_statistics_equal_a_plain_computation(gmms, device, monkeypatch, floats_at_once):
    monkeypatch.setattr(gmm_device, "_FLOATS_AT_ONCE", floats_at_once)
    feats, pdfs = uneven_frames(gmms)
    stats = GmmStats.empty(gmms)
    model = DeviceGmms(gmms, device)
    model.accumulate(stats, feats[:300], pdfs[:300])
    model.accumulate(stats, feats[300:], pdfs[300:])
    sums, log_like = plain_statistics(gmms, feats, pdfs)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-5, atol=1e-4)
    assert stats.log_like == pytest.approx(log_like, rel=1e-6)
    assert stats.frames == 400


def test_statistics_equal_those_without_torch(gmms, device):
    feats, pdfs = uneven_frames(gmms, 3000)
    expected, stats = GmmStats.empty(gmms), GmmStats.empty(gmms)
    expected.accumulate(gmms, feats, pdfs)
    DeviceGmms(gmms, device).accumulate(stats, feats, pdfs)
    np.testing.assert_allclose(stats.sums, expected.sums, rtol=1e-5, atol=1e-4)
    assert stats.log_like == pytest.approx(expected.log_like, rel=1e-7)


def test_statistics_do_not_change_from_run_to_run(gmms, device):
    feats, pdfs = uneven_frames(gmms, 3000)
    one, other = GmmStats.empty(gmms), GmmStats.empty(gmms)
    for stats in (one, other):
        DeviceGmms(gmms, device).accumulate(stats, feats, pdfs)
    np.testing.assert_array_equal(one.sums, other.sums)


def test_other_features_can_be_summed_than_those_that_are_scored(gmms, device):
    feats, pdfs = uneven_frames(gmms)
    others = feats[::-1]
    stats = GmmStats.empty(gmms)
    DeviceGmms(gmms, device).accumulate(stats, feats, pdfs, summed=others)
    sums, log_like = plain_statistics(gmms, feats, pdfs, others)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-5, atol=1e-4)
    assert stats.log_like == pytest.approx(log_like, rel=1e-6)


def test_a_gaussian_of_weight_zero_gets_no_frames(gmms, device):
    weights = gmms.weights.copy()
    weights[:3] = [0, 0.5, 0.5]
    gmms = DiagGmms(weights, gmms.means_inv_vars, gmms.inv_vars, gmms.offsets)
    feats, _ = sample(gmms, 40)
    stats = GmmStats.empty(gmms)
    DeviceGmms(gmms, device).accumulate(stats, feats, np.zeros(40, dtype=int))
    assert not stats.sums[0].any()
    assert stats.occupancy[1:3].sum() == pytest.approx(40)


def test_no_frames_change_nothing(gmms, device):
    stats = GmmStats.empty(gmms)
    none = np.zeros((0, DIM), dtype=np.float32)
    DeviceGmms(gmms, device).accumulate(stats, none, np.zeros(0, dtype=int))
    assert not stats.sums.any()
    assert stats.log_like == stats.frames == 0


@pytest.mark.parametrize("floats_at_once", [1, 300, 2**26])
@pytest.mark.parametrize("pdfs", [None, [6, 0, 3, 3], []])
def test_log_likelihoods_equal_a_plain_computation(gmms, device, monkeypatch, floats_at_once, pdfs):
    monkeypatch.setattr(gmm_device, "_FLOATS_AT_ONCE", floats_at_once)
    feats, _ = sample(gmms, 30)
    log_likes = DeviceGmms(gmms, device).log_likelihoods(feats, pdfs)
    assert log_likes.dtype == np.float32
    expected = [
        [np.logaddexp.reduce(log_densities(gmms, x, pdf)) for pdf in range(len(COUNTS))]
        for x in feats.astype(np.float64)
    ]
    columns = list(range(len(COUNTS))) if pdfs is None else pdfs
    np.testing.assert_allclose(log_likes, np.array(expected)[:, columns], rtol=1e-5, atol=1e-4)


def test_features_of_another_dimension_are_refused(gmms, device):
    with pytest.raises(ValueError, match="dim 5"):
        DeviceGmms(gmms, device).log_likelihoods(np.zeros((3, DIM + 1), dtype=np.float32))


def test_a_model_stays_on_the_device_until_another_one_comes(gmms, device):
    first = on_device(gmms, device)
    assert on_device(gmms, device) is first
    other = random_gmms(DIM)
    assert on_device(other, device).num_pdfs == other.num_pdfs
    assert on_device(gmms, device) is not first


def test_the_processor_needs_no_gpu():
    assert find_gpu("cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(gmms):
    assert find_gpu("auto") is None
    feats, pdfs = sample(gmms, 3)
    stats = GmmStats.empty(gmms)
    with pytest.raises(StageError, match="no GPU"):
        stats.accumulate(gmms, feats, pdfs, device="cuda")
    stats.accumulate(gmms, feats, pdfs, device="auto")
    assert stats.frames == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_gpu_is_taken_where_there_is_one(gmms):
    feats, pdfs = uneven_frames(gmms)
    expected, stats = GmmStats.empty(gmms), GmmStats.empty(gmms)
    expected.accumulate(gmms, feats, pdfs)
    stats.accumulate(gmms, feats, pdfs, device="auto")
    np.testing.assert_allclose(stats.sums, expected.sums, rtol=1e-5, atol=1e-4)
    assert find_gpu("auto").type == "cuda"


def test_torch_is_not_imported_where_no_gpu_can_be():
    program = (
        "import sys\n"
        "from mariana_asr.align.gmm import device as gmm_device, estimation as gmm_estimation\n"
        "gmm_device._has_driver = lambda: False\n"
        "assert gmm_device.find_gpu('auto') is gmm_device.find_gpu('cpu') is None\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
