import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.splice import splice
from mariana_asr.nnet import utterance_logits
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.dnn import DnnOptions

COUNTS = np.array([10, 0, 30, 60])


def make_model(**options):
    transform = TransformOptions(delta_order=1)
    settings = DnnOptions(
        hidden_layers=2,
        hidden_dim=16,
        left_context=3,
        right_context=1,
        transform=transform,
        activation="sigmoid",
        normalisation="none",
        dropout=0.0,
    ).model_copy(update=options)
    network = build_network(settings, frame_dim=6, num_outputs=4, seed=9)
    rng = np.random.default_rng(1)
    network.set_input_statistics(rng.standard_normal(6), rng.random(6) + 0.5)
    front_end = FrontEnd({"type": "mfcc", "num_ceps": 3}, 3, transform)
    return AcousticModel(network, settings, front_end, log_priors_from_counts(COUNTS))


def features(length, seed=0):
    return np.random.default_rng(seed).standard_normal((length, 6)).astype(np.float32)


def by_hand(model, feats):
    """Scores as a plain program in numpy gives them."""
    state = {name: tensor.double().numpy() for name, tensor in model.network.state_dict().items()}
    values = splice(feats, 3, 1).astype(np.float64)
    values = (values + state["normalisation.shift"]) * state["normalisation.scale"]
    for layer in (0, 2):
        values = values @ state[f"hidden.{layer}.weight"].T + state[f"hidden.{layer}.bias"]
        values = 1 / (1 + np.exp(-values))
    values = values @ state["output.weight"].T + state["output.bias"]
    posteriors = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    seen = COUNTS > 0
    return np.log(posteriors[:, seen] / (COUNTS[seen] / COUNTS.sum()))


@pytest.mark.parametrize("length", [1, 2, 50])
def test_scores_are_log_posteriors_minus_log_priors(length):
    model = make_model()
    scores = model.log_likelihoods(features(length))
    assert scores.dtype == np.float32
    assert scores.shape == (length, 4)
    expected = by_hand(model, features(length))
    np.testing.assert_allclose(scores[:, COUNTS > 0], expected, atol=1e-5)


def test_long_utterances_are_scored_in_chunks_with_the_same_result(monkeypatch):
    model = make_model()
    whole = model.log_likelihoods(features(100))
    monkeypatch.setattr(utterance_logits, "SCORED_FRAMES", 7)
    np.testing.assert_allclose(model.log_likelihoods(features(100)), whole, rtol=1e-6, atol=1e-6)


def test_an_utterance_without_frames_has_no_scores():
    assert make_model().log_likelihoods(features(0)).shape == (0, 4)


def test_dropout_and_batch_statistics_are_off_when_scoring():
    model = make_model(dropout=0.5, normalisation="batch")
    model.network.train()
    model = AcousticModel(model.network, model.options, model.front_end, model.log_priors)
    first = model.log_likelihoods(features(9))
    np.testing.assert_array_equal(first, model.log_likelihoods(features(9)))
    np.testing.assert_allclose(first[3:7][2], model.log_likelihoods(features(9)[2:7])[3], atol=1e-5)


def test_pdfs_without_training_frames_get_the_prior_of_kaldi_nnet1():
    priors = log_priors_from_counts(COUNTS)
    assert priors.dtype == np.float32
    np.testing.assert_allclose(priors[[0, 2, 3]], np.log([0.1, 0.3, 0.6]), rtol=1e-6)
    # nnet-pdf-prior.cc: sqrt(FLT_MAX), FLT_MAX = 3.4028234663852886e38.
    assert priors[1] == np.float32(math.sqrt(3.4028234663852886e38))
    scores = make_model().log_likelihoods(features(5))
    assert np.isfinite(scores).all()
    assert (scores[:, 1] < -1e19).all()
    with pytest.raises(DataError, match="no training frames"):
        log_priors_from_counts(np.zeros(3, dtype=int))


def test_a_saved_model_gives_the_same_scores(tmp_path: Path):
    model = make_model(normalisation="batch")
    model.save(tmp_path / "nnet.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["nnet.pt"]
    loaded = AcousticModel.load(tmp_path / "nnet.pt")
    assert loaded.options == model.options
    assert loaded.front_end == model.front_end
    assert loaded.num_pdfs == 4
    np.testing.assert_array_equal(
        loaded.log_likelihoods(features(20)), model.log_likelihoods(features(20))
    )


def test_features_of_another_dimension_are_refused_with_both_numbers():
    with pytest.raises(DataError, match=r"shape \(5, 7\) for a model of 6 values a frame"):
        make_model().log_likelihoods(np.zeros((5, 7), dtype=np.float32))


def test_parts_that_do_not_fit_are_refused():
    model = make_model()
    with pytest.raises(FormatError, match=r"4 outputs does not fit .* 3 priors"):
        AcousticModel(model.network, model.options, model.front_end, model.log_priors[:3])


def test_damaged_and_foreign_files_are_refused(tmp_path: Path):
    path = tmp_path / "nnet.pt"
    with pytest.raises(FormatError, match="no such file"):
        AcousticModel.load(path)
    make_model().save(path)
    content = path.read_bytes()
    foreign = [
        b"",
        b"\0B<TransitionModel>",
        content[: len(content) // 2],
        content[:-1],
        pickle.dumps({"format": "mariana-asr acoustic model"}, protocol=2),
    ]
    weights = content.index(np.float32(make_model().network.output.weight[0, 0].item()).tobytes())
    foreign.append(content[:weights] + bytes([content[weights] ^ 1]) + content[weights + 1 :])
    for damaged in foreign:
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"nnet\.pt"):
            AcousticModel.load(path)


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "other.pt"
    for content in ([1, 2], {"format": "x"}, {"format": "mariana-asr acoustic model"}):
        torch.save(content, path)
        with pytest.raises(FormatError, match=r"other\.pt"):
            AcousticModel.load(path)


def test_loading_a_model_runs_no_code(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.pt"
    torch.save({"format": "mariana-asr acoustic model", "trap": Trap()}, path)
    with pytest.raises(FormatError, match="trap"):
        AcousticModel.load(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("key", ["description", "state", "log_priors", "version", "sha256"])
def test_a_model_without_one_of_its_parts_is_refused(tmp_path: Path, key):
    path = tmp_path / "nnet.pt"
    make_model().save(path)
    content = torch.load(path, weights_only=True)
    del content[key]
    torch.save(content, path)
    with pytest.raises(FormatError, match=key):
        AcousticModel.load(path)
