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
    assert all(set(result) == keys | {"rtf", "tuned_on"} for result in results)
    assert {(r["system"], r["metric"], r["tuned_on"]) for r in results} == {
        (system, metric, tuned_on)
        for system in SYSTEMS
        for metric in ("wer", "cer")
        for tuned_on in ("dev", "test")
    }
    for result in results:
        assert result["errors"] == result["ins"] + result["del"] + result["sub"]
        assert result["percent"] < 25.0, result


def test_results_come_in_kaldis_form_and_as_a_page(finished: Path) -> None:
    experiment = finished / "exp" / "digits"
    lines = (experiment / "RESULTS").read_text().splitlines()
    assert len(lines) == 4 * len(SYSTEMS)
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
    for stage in ("lang", "mono", "graph_mono", "dnn", "frames/train", "features/test"):
        assert command("info", exp / stage)


def without_times(results: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in result.items() if k != "rtf"} for result in results]


def test_a_recipe_may_start_from_features_without_audio(finished: Path, tmp_path: Path) -> None:
    made = finished / "exp" / "digits"
    for name in ("train", "dev", "test"):
        shutil.copytree(made / "features" / name, tmp_path / name)
        (tmp_path / name / "wav.scp").unlink()
    recipe = yaml.safe_load(RECIPE)
    recipe["corpus"] = {"train": "train", "dev": "dev", "test": "test"}
    recipe["lang"]["lexicon"] = str(made / "corpus" / "dict")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path)
    assert without_times(results_of(tmp_path)) == without_times(results_of(finished))


@pytest.mark.parametrize("moment", ["stage features: running", "SAT iteration 5", "epoch 2"])
def test_a_run_killed_at_any_moment_ends_as_one_never_killed(
    finished: Path, tmp_path: Path, moment: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            time.sleep(0.05)
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output = run(tmp_path)
    assert "an earlier run was interrupted" in output

    assert without_times(results_of(tmp_path)) == without_times(results_of(finished))
    models = [
        AcousticModel.load(folder / "exp" / "digits" / "dnn" / "nnet.pt")
        for folder in (tmp_path, finished)
    ]
    weights, expected = (model.network.state_dict() for model in models)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
