"""Existing Kaldi work: a recipe that trains a network on Kaldi's alignments of AN4."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import iterate_int_vectors, write_int_vectors
from mariana_asr.cli.main import main
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import read_matrix_file, read_speaker_transforms
from mariana_asr.nnet.acoustic_model import AcousticModel

TRAIN_SPEAKERS = ["fash", "fbbh", "fclc", "fejs", "mblw", "mcel", "mdcs", "mgah"]
DEV_SPEAKER = "ffmm"
STAGES = ["corpus", "features", "lang", "ali", "graph_ali", "frames", "dnn", "decode_dnn", "score"]


def train(folder: Path, recipe: dict[str, Any], *words: str) -> tuple[int, str]:
    """Run a recipe in a folder, as the command does."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return command("train", folder / "recipe.yaml", "--exp", folder / "exp", "-j", 1, *words)


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def data(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directories of some of AN4, as a user of Kaldi has them."""
    folder = tmp_path_factory.mktemp("an4")
    options = [f"corpus_dir={corpora / 'an4'}", f"dev_speakers=[{DEV_SPEAKER}]"]
    status, output = command("prepare", "an4", folder, *options)
    assert status == 0, output
    all_train, test = read_data_dir(folder / "train"), read_data_dir(folder / "test")
    chosen = [u for u, speaker in all_train.utt2spk.items() if speaker in TRAIN_SPEAKERS]
    all_train.subset(chosen, folder / "train").write()
    test.subset(test.utterances[:28:2], folder / "test").write()
    test.subset(test.utterances[40:48], folder / "other").write()
    return folder


@pytest.fixture
def recipe(data: Path, golden: Path) -> dict[str, Any]:
    return make_recipe(data, golden)


def make_recipe(data: Path, golden: Path) -> dict[str, Any]:
    kaldi = golden / "an4_kaldi"
    return {
        "name": "mine",
        "corpus": {name: str(data / name) for name in ("train", "dev", "test")},
        "features": {"sample_frequency": 16000, "use_energy": False},
        "align": {"kaldi": {"ali": str(kaldi / "tri3"), "lang": str(kaldi / "lang")}},
        "model": {"hidden_layers": 2, "hidden_dim": 128},
        "train": {"schedule": {"max_iters": 3}},
        "decode": {"beam": 9.0, "lattice_beam": 4.0, "lm_weights": [8.0, 12.0]},
    }


@pytest.fixture(scope="module")
def finished(data: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run once."""
    folder = tmp_path_factory.mktemp("finished")
    status, output = train(folder, make_recipe(data, golden))
    assert status == 0, output
    return folder


def kaldis_pdfs(golden: Path, utterances: set[str]) -> dict[str, np.ndarray]:
    with gzip.open(golden / "an4_kaldi/tri3/train_pdf.txt.gz", "rt") as file:
        lines = (line.split() for line in file)
        return {u: np.array(pdfs, dtype=int) for u, *pdfs in lines if u in utterances}


def test_no_gmm_is_trained_and_the_network_recognises_speech(finished: Path) -> None:
    experiment = finished / "exp/mine"
    assert sorted(path.parent.name for path in experiment.glob("*/stage.json")) == sorted(STAGES)
    results = json.loads((experiment / "results.json").read_text())
    rates = {(r["system"], r["tuned_on"]): r["percent"] for r in results}
    assert rates.keys() == {("dnn", "dev"), ("dnn", "test"), ("dnn", "itself")}
    # Of five minutes of speech, in three epochs.
    assert max(rates.values()) < 60.0


def test_the_networks_targets_are_kaldis(finished: Path, data: Path, golden: Path) -> None:
    experiment = finished / "exp/mine"
    for name in ("train", "dev"):
        utterances = read_data_dir(data / name).utt2spk.keys()
        expected = kaldis_pdfs(golden, set(utterances))
        assert expected.keys() == set(utterances)
        store = FrameStore.open(experiment / "frames" / name)
        counts = np.bincount(np.concatenate(list(expected.values())), minlength=736)
        assert np.array_equal(store.class_counts, counts)
        assert store.num_frames == counts.sum()
    tids = read_alignments(experiment / "ali/train")
    theirs = read_alignments(golden / "an4_kaldi/tri3")
    assert all(np.array_equal(theirs[utterance], tids[utterance]) for utterance in tids)
    assert "train: alignments of 99 of 99 utterances" in (experiment / "log.txt").read_text()


def test_a_second_run_finds_everything_up_to_date(finished: Path, recipe: dict[str, Any]) -> None:
    status, output = train(finished, recipe)
    assert status == 0, output
    assert [f"stage {s}: up to date" in output for s in STAGES] == [True] * len(STAGES)


def test_other_alignments_are_taken_over_and_the_features_stay(
    finished: Path, recipe: dict[str, Any], golden: Path, tmp_path: Path
) -> None:
    shutil.copytree(golden / "an4_kaldi/tri3", tmp_path / "tri3")
    recipe["align"]["kaldi"]["ali"] = str(tmp_path / "tri3")
    kept = dict(list(iterate_int_vectors(tmp_path / "tri3/train_ali.ark"))[1:])
    (tmp_path / "tri3/train_ali.ark").unlink()
    write_int_vectors(tmp_path / "tri3/ali.1.gz", kept.items())
    status, output = train(finished, recipe, "--dry-run")
    assert status == 0, output
    rows = [line.split() for line in output.splitlines() if line.startswith("│")]
    to_run = [row[1] for row in rows if row[3:5] == ["to", "run"]]
    assert to_run == STAGES[3:]


def test_copies_that_kaldi_did_not_align_are_aligned_with_kaldis_model(
    data: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    all_train, few = read_data_dir(data / "train"), tmp_path / "few"
    all_train.subset(all_train.utterances[::4], few).write()
    recipe["corpus"] |= {"train": str(few), "dev": str(data / "other")}
    recipe["augmentation"] = {"speeds": [1.0, 1.1]}
    recipe["decode"] |= {"sets": ["dev"]}
    recipe["train"] = {"schedule": {"max_iters": 1}}
    status, output = train(tmp_path, recipe)
    assert status == 0, output
    assert "train: alignments of 25 of 25 utterances" in output
    assert "train_sp: no alignments in" in output
    experiment = tmp_path / "exp/mine"
    recorded = read_alignments(experiment / "ali/train")
    copies = read_alignments(experiment / "ali_sp/train_sp")
    assert copies.keys() == {f"sp1.1-{utterance}" for utterance in recorded}
    ratios = [
        len(copies[f"sp1.1-{utterance}"]) / len(recorded[utterance]) for utterance in recorded
    ]
    assert np.allclose(ratios, 1 / 1.1, atol=0.03)
    assert FrameStore.open(experiment / "frames/train").num_utterances == 2 * len(recorded)


def test_a_set_that_kaldi_did_not_align_is_aligned_with_kaldis_model(
    data: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["corpus"] |= {"dev": str(data / "other"), "test": str(data / "other")}
    recipe["train"] = {"schedule": {"max_iters": 1}}
    recipe["align"]["realign"] = {}
    status, output = train(tmp_path, recipe)
    assert status == 0, output
    assert "dev: no alignments in" in output
    ali = tmp_path / "exp/mine/ali"
    dev = read_data_dir(data / "other")
    assert read_alignments(ali / "dev").keys() == dev.utt2spk.keys()
    assert (ali / "dev/trans.1").exists()
    assert (ali / "dev/unadapted.txt").read_text() == ""
    store = FrameStore.open(tmp_path / "exp/mine/frames/dev")
    assert store.num_utterances == len(dev.utt2spk)
    # The second network learns from the first one's alignments of the same utterances.
    train_set = read_data_dir(data / "train")
    realigned = read_alignments(tmp_path / "exp/mine/ali_dnn/train")
    assert len(realigned) >= 0.95 * len(train_set.utt2spk)
    results = json.loads((tmp_path / "exp/mine/results.json").read_text())
    assert {r["system"] for r in results} == {"dnn", "dnn2"}


def test_a_network_learns_on_features_adapted_by_kaldis_transforms(
    data: Path, recipe: dict[str, Any], golden: Path, tmp_path: Path
) -> None:
    recipe["model"]["adapted"] = True
    recipe["decode"]["sets"] = ["dev"]
    status, output = train(tmp_path, recipe)
    assert status == 0, output
    experiment = tmp_path / "exp/mine"
    stages = sorted(path.parent.name for path in experiment.glob("*/stage.json"))
    assert stages == sorted([*STAGES, "decode_ali"])
    kaldis = read_speaker_transforms(golden / "an4_kaldi/tri3") or {}
    ours = read_speaker_transforms(experiment / "ali/train") or {}
    assert ours.keys() == set(TRAIN_SPEAKERS)
    assert all(np.array_equal(ours[speaker], kaldis[speaker]) for speaker in ours)

    front_end = AcousticModel.load(experiment / "dnn/nnet.pt").front_end
    matrix = read_matrix_file(golden / "an4_kaldi/tri3/final.mat")
    assert front_end.matrix is not None
    assert np.array_equal(front_end.matrix, matrix)
    assert front_end.adapted
    # Kaldi did not say what its features were; what ours are is known.
    assert front_end.features is not None
    assert front_end.features["use_energy"] is False

    store = FrameStore.open(experiment / "frames/train")
    features = read_data_dir(experiment / "features/train")
    plain = FrontEnd(None, 13, TransformOptions(splice_left=4, splice_right=4), matrix)
    (utterance,) = store.utterance_names([3])
    transform = kaldis[utterance.split("-")[0]]
    expected = plain.read(features, utterance) @ transform[:, :40].T + transform[:, 40]
    np.testing.assert_allclose(store.read_utterance(3)[0], expected, rtol=1e-4, atol=1e-4)

    # The dev set is recognised without what Kaldi knew of its transcripts.
    estimated = read_speaker_transforms(experiment / "decode_ali/dev") or {}
    assert estimated.keys() == {DEV_SPEAKER}
    assert not np.array_equal(estimated[DEV_SPEAKER], kaldis[DEV_SPEAKER])
    results = json.loads((experiment / "results.json").read_text())
    assert [r["system"] for r in results] == ["dnn"]
    assert results[0]["percent"] < 60.0


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["final.alimdl"], ["no final.alimdl here", "steps/train_sat.sh"]),
        (["trans.1", "trans.2"], ["no trans.* here", "steps/align_fmllr.sh"]),
    ],
)
def test_adapted_features_need_all_of_kaldis_speaker_adapted_system(
    recipe: dict[str, Any], golden: Path, tmp_path: Path, missing: list[str], expected: list[str]
) -> None:
    shutil.copytree(golden / "an4_kaldi/tri3", tmp_path / "tri3")
    for name in missing:
        (tmp_path / "tri3" / name).unlink()
    recipe["align"]["kaldi"]["ali"] = str(tmp_path / "tri3")
    recipe["model"]["adapted"] = True
    status, output = train(tmp_path, recipe)
    assert status == 1
    for words in expected:
        assert words in output
    assert not (tmp_path / "exp/mine/corpus").exists()


def test_alignments_that_are_missing_or_do_not_fit_are_told(
    recipe: dict[str, Any], golden: Path, tmp_path: Path
) -> None:
    kaldi = golden / "an4_kaldi/tri3"
    (tmp_path / "ali").mkdir()
    for name in ("final.mdl", "tree"):
        shutil.copyfile(kaldi / name, tmp_path / "ali" / name)
    gone = "fash-an253-b"
    kept = (pair for pair in iterate_int_vectors(kaldi / "train_ali.ark") if pair[0] != gone)
    write_int_vectors(tmp_path / "ali/mine.ark", kept)
    recipe["align"]["kaldi"]["ali"] = str(tmp_path / "ali/mine.ark")
    # Kaldi's features had a frame every 10 ms.
    recipe["features"]["frame_shift"] = 12.5
    status, output = train(tmp_path, recipe)
    assert status == 1
    assert f"train: 1 utterance without an alignment: {gone}" in output
    error = output[output.index("packing frames of train: none of 99") :]
    assert "fash-an251-b 79 frames of features but 98 targets" in error
    assert "different frame shifts" in error
    assert f"{gone} no alignment in" in error


def rename_utterances(data: DataDir, path: Path) -> None:
    new = {utterance: f"x-{utterance}" for utterance in data.utterances}
    DataDir(
        path,
        {new[u]: f"x-{speaker}" for u, speaker in data.utt2spk.items()},
        text={new[u]: words for u, words in data.text.items()},
        wav={new[u]: file for u, file in data.wav.items()},
    ).write()


def test_other_utterance_ids_are_told_before_features_are_made(
    data: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    rename_utterances(read_data_dir(data / "train"), tmp_path / "renamed")
    recipe["corpus"]["train"] = str(tmp_path / "renamed")
    status, output = train(tmp_path, recipe)
    assert status == 1
    error = output[output.index("no utterance of the training set is in") :]
    assert "fash-an251-b" in error
    assert "x-fash-an251-b" in error
    assert "Utterance ids must be those that Kaldi's data directory had" in error
    assert not (tmp_path / "exp/mine/features").exists()


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda kaldi: shutil.rmtree(kaldi / "lang"), ["lang: no such lang directory"]),
        (lambda kaldi: (kaldi / "lang/G.fst").unlink(), ["lang: no G.fst", "lang.lm"]),
        (lambda kaldi: (kaldi / "lang/L_disambig.fst").unlink(), ["lang: no L_disambig.fst"]),
        (lambda kaldi: shutil.rmtree(kaldi / "tri3"), ["tri3: no such directory", "steps/align_"]),
        (lambda kaldi: (kaldi / "tri3/tree").unlink(), ["tri3: no tree here", "ali.*.gz"]),
        (lambda kaldi: (kaldi / "tri3/train_ali.ark").unlink(), ["tri3: none of ali.*.gz"]),
    ],
)
@pytest.mark.parametrize("how", ["train", "--dry-run", "validate"])
def test_what_is_missing_of_kaldis_work_is_told_before_anything_runs(
    recipe: dict[str, Any],
    golden: Path,
    tmp_path: Path,
    damage: Damage,
    expected: list[str],
    how: str,
) -> None:
    shutil.copytree(golden / "an4_kaldi/lang", tmp_path / "kaldi/lang")
    shutil.copytree(golden / "an4_kaldi/tri3", tmp_path / "kaldi/tri3")
    damage(tmp_path / "kaldi")
    for key, folder in (("ali", "tri3"), ("lang", "lang")):
        recipe["align"]["kaldi"][key] = str(tmp_path / "kaldi" / folder)
    status, output = train(tmp_path, recipe, *(["--dry-run"] if how != "train" else []))
    if how == "validate":
        status, output = command("validate", tmp_path / "recipe.yaml")
    assert status == 1, output
    for words in expected:
        assert words in output
    assert not (tmp_path / "exp/mine/corpus").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["align.tri1={}"], "with kaldi no GMM is trained: leave out tri1"),
        (["align.tri2={}", "align.tri3={}"], "with kaldi no GMM is trained: leave out tri2, tri3"),
        (["align.pronunciations={}"], "leave out kaldi or them"),
        (["lang.lexicon=lexicon.txt"], "leave out lang.lexicon"),
    ],
)
def test_what_does_not_go_with_kaldis_alignments_is_refused(
    recipe: dict[str, Any], tmp_path: Path, overrides: list[str], expected: str
) -> None:
    status, output = train(tmp_path, recipe, *overrides)
    assert status == 1
    assert expected in output
    assert "align" in output
    assert not (tmp_path / "exp").exists()
