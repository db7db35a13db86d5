"""Networks of the user's own, and networks made smaller, from the command line."""

import sys
from pathlib import Path

import pytest
from invoking import failed, succeeded

MODULE = """
import torch


class Net(torch.nn.Module):
    left_context = right_context = 1
    chunk_frames, exact_chunks = 4, True

    def __init__(self, frame_dim, num_outputs, hidden=32):
        super().__init__()
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.norm = torch.nn.BatchNorm1d(frame_dim)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(frame_dim, hidden, 3),
            torch.nn.ReLU(),
            torch.nn.Conv1d(hidden, num_outputs, 1),
        )

    def forward(self, windows):
        rows = self.norm(windows.reshape(-1, self.frame_dim))
        frames = rows.view(len(windows), -1, self.frame_dim).transpose(1, 2)
        return self.layers(frames).transpose(1, 2).flatten(0, 1)
"""


def train(folder: Path, out: Path, *words: str) -> None:
    feats, mono = folder / "feats", folder / "mono"
    succeeded("train-nnet", feats, mono, feats, mono, out, "train.schedule.max_iters=3", *words)


def word_error_rate(folder: Path, tmp_path: Path, model: Path) -> float:
    """In percent, on the utterances that the model was trained on."""
    succeeded("graph", folder / "lang", folder / "mono", tmp_path / "graph")
    succeeded("decode", folder / "feats", model, tmp_path / "graph", tmp_path / "decode", "-j", 1)
    output = succeeded("score", folder / "feats", tmp_path / "decode")
    return float(output.split("%WER ")[1].split()[0])


def test_a_class_in_the_working_directory_is_trained_and_decodes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    assert "cannot import tones_net" in failed(
        "train-nnet", *(folder / name for name in ("feats", "mono", "feats", "mono")),
        tmp_path / "none", "model.class=tones_net.Net",
    )  # fmt: skip
    (tmp_path / "tones_net.py").write_text(MODULE)
    train(folder, tmp_path / "dnn", "model.class=tones_net.Net", "model.options.hidden=24")
    output = succeeded("info", tmp_path / "dnn")
    assert "tones_net.Net" in output
    assert "{'hidden': 24}" in output
    assert word_error_rate(folder, tmp_path, tmp_path / "dnn") < 20.0
    sys.modules.pop("tones_net")


def test_a_factored_network_decodes(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "dnn", "model.hidden_layers=2", "model.hidden_dim=64")
    output = succeeded("factor", tmp_path / "dnn", tmp_path / "small", "--energy", 0.9)
    after, before = output.split("units; ")[1].split(" parameters, before ")
    assert int(after.replace(",", "")) < int(before.replace(",", ""))
    assert word_error_rate(folder, tmp_path, tmp_path / "small") < 20.0
