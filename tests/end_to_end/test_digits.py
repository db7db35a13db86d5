"""The whole way, small: synthetic digits to error rates, through the command line as users do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from mariana_asr.cli.main import main
from mariana_asr.nnet.acoustic_model import AcousticModel

RECIPE = """
name: digits
corpus:
  preparer: espeak_digits
  train_voices: [en-us+m1, en-us+f1, en+m2, en-gb-x-rp+Denis, en-us+Alex, en-us+Annie]
  dev_voices: [en-us+m4]
  test_voices: [en-us+m6, en+ed]
  train_strings: 16
  dev_strings: 10
  test_strings: 10
  snr_db: [15]
features: {sample_frequency: 8000, use_energy: false}
lang:
  lm: {type: word_loop, words: [zero, one, two, three, four, five, six, seven, eight, nine]}
align:
  mono: {totgauss: 150, num_iters: 12, max_iter_inc: 8}
  tri1: &tri {num_leaves: 60, totgauss: 200, num_iters: 8, max_iter_inc: 5, realign_iters: [4]}
  tri2: {<<: *tri, dim: 20, mllt_iters: [2]}
  tri3: {<<: *tri, fmllr_iters: [2]}
  pronunciations: {}
  realign: {}
model: {hidden_layers: 2, hidden_dim: 128, transform: {delta_order: 2}}
train: {schedule: {max_iters: 4}, checkpoint_every: 20}
score: {metrics: [wer, cer]}
"""
SYSTEMS = ["mono", "tri1", "tri2", "tri3", "dnn", "dnn2"]
STAGES = ["corpus", "features", "lang"]
STAGES += [f"{step}{rung}" for rung in SYSTEMS[:4] for step in ("", "graph_", "decode_")]
STAGES += ["ali", "lang_pron", "graph_pron", "frames", "dnn", "decode_dnn"]
STAGES += ["ali_dnn", "frames_dnn2", "dnn2", "decode_dnn2", "score"]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mariana_asr.cli", "train", "recipe.yaml", "-j", "1"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(RECIPE)
    output = run(folder)
    assert "Results of exp/digits" in output
    return folder


def results_of(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "exp" / "digits" / "results.json").read_text())


def test_all_systems_recognise_synthetic_digits(finished: Path) -> None:
    results = results_of(finished)
    keys = {"system", "test_set", "metric", "percent", "errors", "tokens", "ins", "del", "sub"}
    network_keys = {"parameters", "frames_per_second"}
    assert {frozenset(result) - network_keys for result in results} == {
        frozenset(keys | {"rtf", "tuned_on"})
    }
    assert {r["system"] for r in results if network_keys <= set(r)} == {"dnn", "dnn2"}
    assert {(r["system"], r["metric"], r["test_set"], r["tuned_on"]) for r in results} == {
        (system, metric, *row)
        for system in SYSTEMS
        for metric in ("wer", "cer")
        for row in (("test", "dev"), ("test", "test"), ("dev", "itself"))
    }
    for result in results:
        assert result["errors"] == result["ins"] + result["del"] + result["sub"]
        assert result["percent"] < 25.0, result


def test_results_come_in_kaldis_form_and_as_a_page(finished: Path) -> None:
    experiment = finished / "exp" / "digits"
    lines = (experiment / "RESULTS").read_text().splitlines()
    assert len(lines) == 6 * len(SYSTEMS)
    assert all(line.startswith(("%WER ", "%CER ")) and " ins, " in line for line in lines)
    page = (experiment / "report" / "index.html").read_text()
    assert "dnn" in page
    assert "<svg" in page
    assert "en-gb-x-rp+Denis" in (experiment / "recipe.yaml").read_text()


def test_a_second_run_finds_everything_up_to_date(finished: Path) -> None:
    output = run(finished)
    assert [f"stage {s}: up to date" in output for s in STAGES] == [True] * len(STAGES)


def test_a_dry_run_names_the_changed_key_and_what_follows(finished: Path) -> None:
    output = run(finished, "--dry-run", "decode.beam=9")
    lines = {line.split()[1]: line for line in output.splitlines() if line.startswith("│")}
    assert "options.beam: 13.0 -> 9.0" in lines["decode_mono"]
    assert "up to date" in lines["mono"]
    assert "up to date" in lines["dnn"]
    assert "to run" in lines["score"]


def test_stages_run_alone_on_kaldi_directories(finished: Path, tmp_path: Path) -> None:
    """Decoding again by shell commands gives the recipe's hypotheses."""
    exp = finished / "exp" / "digits"

    def command(*words: object) -> str:
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.stdout

    command("graph", exp / "lang_pron", exp / "dnn", tmp_path / "graph")
    for name in ("dev", "test"):
        command(
            "decode", exp / "features" / name, exp / "dnn", tmp_path / "graph", tmp_path / name,
            "-j", 1,
        )  # fmt: skip
    output = command(
        "score", exp / "features" / "test", tmp_path / "test",
        "--dev", exp / "features" / "dev", tmp_path / "dev",
    )  # fmt: skip
    expected = next(
        r for r in results_of(finished) if (r["system"], r["tuned_on"]) == ("dnn", "dev")
    )
    assert f"[ {expected['errors']} / {expected['tokens']}," in output.splitlines()[0]
    assert "experiment" in command("info", exp)
    stages = ["lang", "mono", "graph_mono", "tri3", "ali/train", "dnn", "frames/train"]
    for stage in [*stages, "features/test", "lang_pron", "ali_dnn/dev"]:
        assert command("info", exp / stage)


def without_times(results: list[dict[str, object]]) -> list[dict[str, object]]:
    times = ("rtf", "frames_per_second")
    return [{k: v for k, v in result.items() if k not in times} for result in results]


def test_a_recipe_may_start_from_features_without_audio(finished: Path, tmp_path: Path) -> None:
    made = finished / "exp" / "digits"
    for name in ("train", "dev", "test"):
        shutil.copytree(made / "features" / name, tmp_path / name)
        (tmp_path / name / "wav.scp").unlink()
    recipe = yaml.safe_load(RECIPE)
    recipe["corpus"] = {"train": "train", "dev": "dev", "test": "test"}
    recipe["lang"]["lexicon"] = str(made / "corpus" / "dict")
    recipe["align"] = {name: recipe["align"][name] for name in ("mono", "tri1")}
    recipe["train"]["schedule"] = {"max_iters": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path)
    gmm_results = [
        [r for r in without_times(results_of(folder)) if r["system"] in ("mono", "tri1")]
        for folder in (tmp_path, finished)
    ]
    assert gmm_results[0] == gmm_results[1]
    assert len(gmm_results[0]) == 12


SHELL_OPTIONS = """
corpus=(espeak_digits)
mono=(totgauss=150 num_iters=12 max_iter_inc=8)
tri1=(num_leaves=60 totgauss=200 num_iters=8 max_iter_inc=5 realign_iters=[4])
tri2=("${tri1[@]}" dim=20 mllt_iters=[2])
tri3=("${tri1[@]}" fmllr_iters=[2])
nnet=(model.hidden_layers=2 model.hidden_dim=128 model.transform.delta_order=2)
nnet+=(train.schedule.max_iters=4 train.checkpoint_every=20)
realign=()
"""


def test_the_ladder_by_shell_commands_gives_the_recipes_systems(
    finished: Path, tmp_path: Path
) -> None:
    made = finished / "exp" / "digits"
    for name in ("features", "lang"):
        (tmp_path / name).symlink_to(made / name)
    stages = Path(__file__).parents[2] / "recipes" / "stages.sh"
    (tmp_path / "run.sh").write_text(f"{SHELL_OPTIONS}source {stages}\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "run.sh", "--stage", "3", "--exp", str(tmp_path), "--jobs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    check_same_systems(tmp_path, made)
    lines = [line.split("]")[0] for line in done.stdout.splitlines() if line.startswith("%WER")]
    # The recipe's networks are decoded with learnt pronunciations, so only GMMs are compared.
    expected = [line for line in (made / "RESULTS").read_text().splitlines() if "%WER" in line]
    assert lines[:12] == [line.split("]")[0] for line in expected[:12]]
    assert len(lines) == 3 * len(SYSTEMS)


MOMENTS = [
    "stage features: running",
    "LDA+MLLT iteration 4",
    "SAT iteration 5",
    "decoding: 10 utterances",
    "aligned 96 utterances",  # those of the training set; the dev set is next
    "epoch 2",
    "stage ali_dnn: running",
]


def run_until(folder: Path, moment: str) -> str:
    """Kill a run as soon as it says something; returns what it said until then."""
    process = start(folder)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if moment in line:
            time.sleep(0.05)
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert moment in said, said
    return said


def test_a_run_killed_again_and_again_ends_as_one_never_killed(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    said = [run_until(tmp_path, moment) for moment in MOMENTS] + [run(tmp_path)]
    assert ["an earlier run was interrupted" in output for output in said[1:]] == [True] * len(
        MOMENTS
    )

    assert without_times(results_of(tmp_path)) == without_times(results_of(finished))
    ours, expected = (folder / "exp" / "digits" for folder in (tmp_path, finished))
    assert files_of(ours) == files_of(expected)
    check_same_systems(ours, expected)


def check_same_systems(ours: Path, expected: Path) -> None:
    """Check that all models of two experiments are equal, bit for bit."""
    for rung in SYSTEMS[:4]:
        model = Path(rung) / "final.mdl"
        assert (ours / model).read_bytes() == (expected / model).read_bytes(), rung
    for network in SYSTEMS[4:]:
        models = [AcousticModel.load(exp / network / "nnet.pt") for exp in (ours, expected)]
        weights, others = (model.network.state_dict() for model in models)
        assert all(torch.equal(weights[name], others[name]) for name in others), network


def files_of(experiment: Path) -> set[str]:
    """Everything below an experiment, whatever its name; checkpoints come and go."""
    files = (path.relative_to(experiment) for path in experiment.rglob("*") if path.is_file())
    return {str(path) for path in files if "checkpoints" not in path.parts}
