"""A network of the user's own, in a module that only its folder makes known."""

import sys
from pathlib import Path

import pytest
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference

from mariana_asr.engine.options import EngineOptions, ExponentialOptions, TrainOptions
from mariana_asr.engine.training.train import train_network
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import CustomOptions

MODULE = """
import torch


class Net(torch.nn.Module):
    left_context, right_context, chunk_frames = 1, 0, 3

    def __init__(self, frame_dim, num_outputs, hidden):
        super().__init__()
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(frame_dim, hidden, 2),
            torch.nn.Tanh(),
            torch.nn.Conv1d(hidden, num_outputs, 1),
        )

    def forward(self, windows):
        frames = windows.unflatten(1, (-1, self.frame_dim)).transpose(1, 2)
        return self.layers(frames).transpose(1, 2).flatten(0, 1)
"""
OPTIONS = CustomOptions.model_validate({"class": "own_net.Net", "options": {"hidden": 16}})
TRAIN = TrainOptions(
    learning_rate=0.01, minibatch_size=60, schedule=ExponentialOptions(epochs=2), seed=3
)


@pytest.mark.parametrize("found_by", ["working directory", "path of modules"])
def test_two_launched_workers_import_the_class_and_end_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by
):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_net.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    if found_by == "working directory":
        monkeypatch.chdir(folder)
    else:  # as that of a script in another folder
        monkeypatch.syspath_prepend(folder)
    stores = [
        pack_linear_task(tmp_path / name, seed=seed, utterances=10)
        for seed, name in enumerate(("train", "dev"))
    ]
    learnt = []
    for workers in (1, 2):
        network = build_network(OPTIONS, DIM, CLASSES, seed=4)
        initial = {name: value.clone() for name, value in network.state_dict().items()}
        engine = EngineOptions(workers=workers, threads=1)
        train_network(network, *stores, TRAIN, tmp_path / str(workers), engine)
        learnt.append(network.state_dict())
    assert relative_difference(learnt[0], initial) > 0.05
    assert relative_difference(*learnt) < 1e-4
    sys.modules.pop("own_net")
