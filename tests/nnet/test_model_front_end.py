"""The front end that travels in a network's file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import DnnOptions

LDA = np.random.default_rng(3).normal(size=(5, 12)).astype(np.float32)
SPLICED = TransformOptions(splice_left=1, splice_right=1)
PLAIN = FrontEnd({"type": "mfcc", "num_ceps": 5}, 5, TransformOptions())
ADAPTED = FrontEnd(None, 4, SPLICED, LDA, adapted=True)
BESIDE = FrontEnd(
    {"type": "mfcc"}, 4, SPLICED, LDA, True, FrontEnd({"type": "fbank"}, 3, TransformOptions())
)


def save_model(front_end: FrontEnd, path: Path) -> None:
    options = DnnOptions(hidden_layers=1, hidden_dim=4, left_context=1, right_context=1)
    network = build_network(options, front_end.dim, 2, seed=1)
    AcousticModel(network, options, front_end, log_priors_from_counts(np.array([1, 3]))).save(path)


def rewrite(path: Path, content: dict[str, Any]) -> None:
    """Write a model's content, with the checksum as it is meant: of text, names and values."""
    digest = hashlib.sha256(content["description"].encode())
    named = {"log_priors": content["log_priors"], **content["state"]}
    if "matrix" in content:
        named["front_end.matrix"] = content["matrix"]
    for name in sorted(named):
        digest.update(f"{name} {named[name].dtype} {tuple(named[name].shape)}".encode())
        digest.update(named[name].contiguous().numpy().tobytes())
    torch.save(content | {"sha256": digest.hexdigest()}, path)


@pytest.mark.parametrize("front_end", [PLAIN, ADAPTED, BESIDE])
def test_a_front_end_comes_back_bit_by_bit(front_end: FrontEnd, tmp_path: Path) -> None:
    save_model(front_end, tmp_path / "nnet.pt")
    assert AcousticModel.load(tmp_path / "nnet.pt").front_end == front_end


def test_a_model_from_before_adapted_features_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "nnet.pt"
    save_model(PLAIN, path)
    content = torch.load(path, weights_only=True)
    description = json.loads(content["description"])
    assert description["front_end"].pop("adapted") is False
    for name in ("features", "adapted"):
        del description["network"][name]
    assert set(description["front_end"]) == {"features", "feature_dim", "transform"}
    rewrite(path, content | {"description": json.dumps(description)})
    model = AcousticModel.load(path)
    assert model.front_end == PLAIN
    assert not model.options.adapted


def test_a_changed_or_lost_matrix_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "nnet.pt"
    save_model(ADAPTED, path)
    content = torch.load(path, weights_only=True)
    other = content["matrix"].clone()
    other[2, 3] += 1e-3
    for damaged in ({"matrix": other}, {"matrix": None}):
        kept = {name: value for name, value in (content | damaged).items() if value is not None}
        torch.save(kept, path)
        with pytest.raises(FormatError, match="checksum"):
            AcousticModel.load(path)
    # A matrix that does not fit, with the right checksum.
    rewrite(path, content | {"matrix": other[:, :9]})
    with pytest.raises(FormatError, match=r"shape \(5, 9\) does not fit features of 12"):
        AcousticModel.load(path)
