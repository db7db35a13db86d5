"""Which weights a network ends with: epochs and averages, by loss or by error rate."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.options import EngineOptions, ExponentialOptions, TrainOptions
from mariana_asr.engine.training.kept_epochs import epoch_files, read_epoch
from mariana_asr.engine.training.train import train_network
from mariana_asr.errors import FormatError, RecipeError, StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet.acoustic_model import AcousticModel
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.selection import select_network
from mariana_asr.score.candidates import Candidate, Selection, choose, read_selection
from mariana_asr.score.error_counts import ErrorCounts

DIM, CLASSES = 4, 5
NETWORK = DnnOptions(
    hidden_layers=1,
    hidden_dim=8,
    left_context=0,
    right_context=0,
    dropout=0.2,
    normalisation="batch",
    transform=TransformOptions(cmvn="none", delta_order=0),
)


TRAINING = TrainOptions(
    learning_rate=0.02, keep_epochs=3, schedule=ExponentialOptions(epochs=5), minibatch_size=64
)


def pack(folder: Path, seed: int, utterances: int) -> FrameStore:
    """Frames whose class is that of the greatest of some weighted sums."""
    weights = np.random.default_rng(0).standard_normal((DIM, CLASSES))

    def made() -> Any:
        rng = np.random.default_rng(seed)
        for number in range(utterances):
            frames: NDArray[np.float32] = rng.standard_normal((40, DIM)).astype(np.float32)
            yield f"utt{number}", frames, (frames @ weights).argmax(axis=1)

    return pack_frames(folder, made(), num_outputs=CLASSES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training of five epochs of which three are kept, with its frame stores."""
    folder = tmp_path_factory.mktemp("trained")
    train, held_out = pack(folder / "train", 1, 60), pack(folder / "held_out", 2, 10)
    out = folder / "train_dnn"
    network = Dnn(NETWORK, DIM, CLASSES, seed=1)
    train_network(network, train, held_out, TRAINING, out)
    front_end = FrontEnd(None, DIM, NETWORK.transform)
    log_priors = np.log(np.full(CLASSES, 1 / CLASSES, dtype=np.float32))
    AcousticModel(network, NETWORK, front_end, log_priors).save(out / "nnet.pt")
    for name in ("final.mdl", "tree"):
        (out / name).write_text(name)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return SimpleNamespace(out=out, train=train, held_out=held_out, log=log)


def select(trained: SimpleNamespace, out: Path, errors: Any = None, **options: Any) -> Selection:
    """Select; ``errors`` are those of the candidates in their order, or counts them."""
    numbers = iter(errors) if isinstance(errors, list) else None

    def count_errors(folder: Path) -> ErrorCounts:
        assert sorted(path.name for path in folder.iterdir()) == ["final.mdl", "nnet.pt", "tree"]
        return ErrorCounts(errors=errors(folder) if numbers is None else next(numbers), tokens=200)

    return select_network(
        trained.out,
        trained.train.directory,
        trained.held_out.directory,
        out,
        criterion="loss" if errors is None else "wer",
        metric="wer",
        count_errors=count_errors,
        train=TRAINING,
        engine=EngineOptions(device="cpu", workers=1),
        **{"average": 0, **options},
    )


def names(selection: Selection) -> list[str]:
    return [candidate.name for candidate in selection.candidates]


def frames_of(store: FrameStore) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [store.read_utterance(number) for number in range(store.num_utterances)]
    frames, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(frames), torch.from_numpy(targets).long()


def plain_loss(network: Any, store: FrameStore) -> float:
    frames, targets = frames_of(store)
    with torch.no_grad():
        return nn.functional.cross_entropy(network(frames), targets).item()


def test_candidates_are_each_epoch_and_averages_of_the_last(trained, tmp_path: Path) -> None:
    selection = select(trained, tmp_path, average=3)
    assert names(selection) == [
        "epoch 3",
        "epoch 4",
        "epoch 5",
        "mean of epochs 4, 5",
        "mean of epochs 3, 4, 5",
    ]
    losses = [candidate.held_out_loss for candidate in selection.candidates]
    for record, loss in zip(trained.log[3:], losses, strict=False):
        assert record["held_out_loss"] == pytest.approx(loss, rel=1e-5)
    assert selection.chosen == int(np.argmin(losses))
    assert all(candidate.percent is None for candidate in selection.candidates)


def test_the_network_is_the_chosen_one_with_all_that_the_training_left(
    trained, tmp_path: Path
) -> None:
    # The second of two with as few errors has the lower loss.
    first = select(trained, tmp_path / "first", [9, 9, 9])
    losses = [candidate.held_out_loss for candidate in first.candidates]
    assert first.chosen == int(np.argmin(losses))
    selection = select(trained, tmp_path / "second", [9, 4, 9])
    assert selection.chosen == 1
    assert selection.candidates[1].percent == 2.0
    kept = read_epoch(epoch_files(trained.out / "epochs")[1])
    model = AcousticModel.load(tmp_path / "second" / "nnet.pt")
    weights = model.network.state_dict()
    assert all(torch.equal(kept.weights[name], weights[name]) for name in weights)
    assert plain_loss(model.network, trained.held_out) == pytest.approx(
        selection.candidates[1].held_out_loss, rel=1e-5
    )
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        "final.mdl",
        "log.jsonl",
        "nnet.pt",
        "selection.json",
        "tree",
    ]
    assert read_selection(tmp_path / "second" / "selection.json") == selection


def test_an_average_is_of_the_parameters_with_statistics_of_its_own(
    trained, tmp_path: Path
) -> None:
    selection = select(trained, tmp_path, [9, 9, 9, 9, 0], average=3)
    assert selection.chosen == 4
    states = [read_epoch(path).weights for path in epoch_files(trained.out / "epochs")]
    network = AcousticModel.load(tmp_path / "nnet.pt").network
    for name, parameter in dict(network.named_parameters()).items():  # type: ignore[attr-defined]
        mean = sum(state[name] for state in states) / 3
        torch.testing.assert_close(parameter.data, mean)
    (norm,) = (m for m in network.modules() if isinstance(m, nn.BatchNorm1d))
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frames, _ = frames_of(trained.train)
    with torch.no_grad():
        network(frames)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, seen[0].mean(dim=0), rtol=1e-4, atol=1e-4)


def test_the_best_epoch_is_a_candidate_though_it_was_not_kept(trained, tmp_path: Path) -> None:
    other = tmp_path / "train_dnn"
    other.mkdir()
    for path in trained.out.iterdir():
        (other / path.name).symlink_to(path)
    (other / "log.jsonl").unlink()
    log = [record | {"best": record["epoch"] == 1} for record in trained.log]
    (other / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    trained = SimpleNamespace(**{**vars(trained), "out": other})
    selection = select(trained, tmp_path / "dnn", average=2)
    assert names(selection) == ["epoch 1", "epoch 3", "epoch 4", "epoch 5", "mean of epochs 4, 5"]


def test_an_interrupted_selection_goes_on_with_what_it_has_measured(
    trained, tmp_path: Path
) -> None:
    measured: list[str] = []
    calls = count()

    def counted(folder: Path) -> int:
        if next(calls) == 2:
            raise StageError("no space left")
        measured.append(folder.name)
        return 9

    with pytest.raises(StageError, match="no space left"):
        select(trained, tmp_path, counted, average=2)
    selection = select(
        trained, tmp_path, lambda folder: measured.append(folder.name) or 9, average=2
    )
    assert measured == ["3", "4", "5", "4-5"]
    assert len(selection.candidates) == 4
    assert not (tmp_path / "candidates").exists()


def test_without_kept_epochs_there_is_nothing_to_select(trained, tmp_path: Path) -> None:
    other = tmp_path / "train_dnn"
    other.mkdir()
    for name in ("nnet.pt", "log.jsonl", "final.mdl", "tree"):
        (other / name).symlink_to(trained.out / name)
    with pytest.raises(FormatError, match=r"no weights of epochs. Train with train\.keep_epochs"):
        select(SimpleNamespace(**{**vars(trained), "out": other}), tmp_path / "dnn")


def test_a_loss_that_is_not_finite_never_wins() -> None:
    good = Candidate((1,), 1.5, 0.5, 10.0, 20, 200)
    broken = [replace(good, held_out_loss=loss) for loss in (float("nan"), float("inf"))]
    assert choose([*broken, good], "loss") == 2
    assert choose([*broken, good], "wer") == 2
    assert choose([good, replace(good, held_out_loss=9.0, errors=19)], "wer") == 1
    assert choose([good, replace(good, held_out_loss=9.0, errors=19)], "loss") == 0


def test_a_file_that_is_no_selection_is_told(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    path.write_text('{"candidates": [{"epochs": [1]}]}')
    with pytest.raises(FormatError, match="not a selection of a network"):
        read_selection(path)


def experiment_of(folder: Path, train: dict[str, Any], **sections: Any) -> Experiment:
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, "train": train, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    return Experiment(loaded, folder / "exp", jobs=1, allow_pipes=False)


@pytest.mark.parametrize(
    ("train", "kept"),
    [
        ({}, 0),
        ({"average": 1}, 0),
        ({"average": 4}, 4),
        ({"select": "wer"}, 5),
        ({"select": "wer", "average": 7}, 7),
        ({"select": "wer", "keep_epochs": 2}, 2),
        ({"keep_epochs": 3}, 3),
    ],
)
def test_a_network_is_selected_where_epochs_are_kept(
    tmp_path: Path, train: dict[str, Any], kept: int
) -> None:
    experiment = experiment_of(tmp_path, train, align={"realign": {}})
    assert experiment.recipe.train.engine_options.keep_epochs == kept
    assert type(experiment.recipe.train.engine_options) is TrainOptions
    stages = {stage.name: stage for stage in experiment.stages()}
    assert {"train_dnn", "train_dnn2"} <= set(stages) or not kept
    assert ("train_dnn" in stages) == (kept > 0)
    # Whatever comes after takes the network that was selected.
    assert "dnn" in stages["decode_dnn"].after
    assert "dnn" in stages["ali_dnn"].after
    before: set[str] = set()
    for stage in stages.values():
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)


def test_what_decides_the_choice_does_not_train_the_network_anew(tmp_path: Path) -> None:
    digests = []
    for train, sections in (
        ({"keep_epochs": 3}, {}),
        ({"keep_epochs": 3, "select": "wer", "average": 2}, {}),
        ({"keep_epochs": 3, "select": "wer", "average": 2}, {"decode": {"beam": 9}}),
        ({"keep_epochs": 3, "select": "wer", "average": 2}, {"decode": {"sets": ["dev"]}}),
    ):
        experiment = experiment_of(tmp_path, train, **sections)
        digests.append({p.stage.name: p.fingerprint.digest for p in experiment.plan()})
    assert len({digest["train_dnn"] for digest in digests}) == 1
    by_loss, by_errors, with_beam, only_dev = (digest["dnn"] for digest in digests)
    assert len({by_loss, by_errors, with_beam}) == 3
    assert only_dev == by_errors


def test_more_than_is_kept_cannot_be_averaged(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="average is 4, but keep_epochs is 3"):
        experiment_of(tmp_path, {"keep_epochs": 3, "average": 4})
