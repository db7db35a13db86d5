"""``mariana-asr sweep``: what variants share, what fails, and where a killed sweep goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from invoking import failed, succeeded

RECIPE = {
    "name": "tones",
    "corpus": {"train": "feats", "dev": "feats", "test": {"eval": "feats"}},
    "lang": {
        "lexicon": "lexicon.txt",
        "lm": {"type": "word_loop"},
        "position_dependent_phones": False,
    },
    "align": {
        "mono": {"num_iters": 4, "max_iter_inc": 3, "totgauss": 30, "realign_iters": [1, 2, 3]}
    },
    "model": {"hidden_layers": 1, "hidden_dim": 16},
    "train": {"schedule": {"max_iters": 1}},
    "decode": {"lm_weights": [5, 10], "word_insertion_penalties": [0]},
}
NAMED = {"baseline": {}, "wide": {"model.hidden_dim": 32}, "broken": {"train.learning_rate": 1e30}}


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    (folder / "named.yaml").write_text(yaml.safe_dump(NAMED, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def swept(recipe: Path) -> str:
    """A sweep that has run once, over three variants of which one fails; its output."""
    return failed(
        "sweep", recipe, "decode.sets=[dev]", "--variants", recipe.parent / "named.yaml",
        "--seeds", "1,2", "--system", "all", "--mean", "variants", "--exp", recipe.parent / "exp",
        "--json", recipe.parent / "figures.json", "-j", 1,
    )  # fmt: skip


@pytest.fixture
def sweep_folder(recipe: Path, swept: str) -> Path:
    return recipe.parent / "exp" / "tones" / "sweep"


def stages_run(output: str) -> list[str]:
    return [
        line.split(": running")[0].split()[-1]
        for line in output.splitlines()
        if ": running" in line
    ]


def test_stages_in_common_are_made_once(swept: str) -> None:
    common = ["corpus", "features", "lang", "mono", "graph_mono", "decode_mono", "ali", "frames"]
    ran = stages_run(swept)
    assert {stage: ran.count(stage) for stage in common} == dict.fromkeys(common, 1)
    # Four networks learn; the two of the broken variant do not come to their decoding.
    assert [ran.count(stage) for stage in ("dnn", "decode_dnn", "score")] == [6, 4, 4]


def test_a_variant_that_fails_is_told_at_the_end_and_the_others_are_done(
    swept: str, sweep_folder: Path
) -> None:
    assert "2 runs of 6 failed:" in swept.splitlines()[-3]
    assert swept.splitlines()[-1].startswith("  broken, seed 2: ")
    tree = json.loads((sweep_folder / "sweep.json").read_text())
    assert [(f["variant"], f["seed"]) for f in tree["failed"]] == [("broken", 1), ("broken", 2)]
    assert [(row["variant"], row["system"], row["seeds"]) for row in tree["rows"]] == [
        ("baseline", "mono", [1, 2]),
        ("baseline", "dnn", [1, 2]),
        ("wide", "mono", [1, 2]),
        ("wide", "dnn", [1, 2]),
    ]
    assert json.loads((sweep_folder.parents[2] / "figures.json").read_text()) == tree


def test_the_figures_are_those_of_the_variants_own_results(sweep_folder: Path) -> None:
    tree = json.loads((sweep_folder / "sweep.json").read_text())
    for row in tree["rows"]:
        # Only dev was decoded.
        assert list(row["rates"]) == ["dev"]
        runs = [sweep_folder / f"{row['variant']}+seed-{seed}" for seed in row["seeds"]]
        own = [
            result
            for run in runs
            for result in json.loads((run / "results.json").read_text())
            if result["system"] == row["system"]
        ]
        assert [result["percent"] for result in own] == row["rates"]["dev"]["each"]
        assert all(result["test_set"] == "dev" for result in own)
    widths = [row["parameters"] for row in tree["rows"] if row["system"] == "dnn"]
    assert widths[0] < widths[1]
    table = (sweep_folder / "sweep.md").read_text()
    assert "| wide | dnn |" in table
    assert "--variants" in table
    assert "Mean WER" in table


def test_the_variants_of_a_finished_sweep_are_up_to_date(recipe: Path, sweep_folder: Path) -> None:
    output = succeeded(
        "sweep", recipe, "decode.sets=[dev]", "--vary", "model.hidden_dim=16,32", "--seeds", "2",
        "--exp", recipe.parent / "exp", "--table", "again", "-j", 1,
    )  # fmt: skip
    # Other names, and the same fingerprints: only the page with the results is new.
    assert stages_run(output) == ["score", "score"]
    assert (sweep_folder / "again.md").exists()


def test_a_dry_run_says_what_would_run_and_runs_nothing(recipe: Path, sweep_folder: Path) -> None:
    before = sorted(sweep_folder.iterdir())
    output = succeeded(
        "sweep", recipe, "decode.sets=[dev]", "--vary", "model.hidden_dim=16,48", "--seeds", "1",
        "--exp", recipe.parent / "exp", "--dry-run",
    )  # fmt: skip
    rows = [line for line in output.splitlines() if line.startswith("│")]
    assert ["dnn" in row for row in rows] == [False, True]
    assert sorted(sweep_folder.iterdir()) == before


def test_the_stages_of_the_recipes_own_experiment_are_taken(recipe: Path, tmp_path: Path) -> None:
    succeeded("train", recipe, "decode.sets=[dev]", "--exp", tmp_path, "-j", 1)
    output = succeeded(
        "sweep", recipe, "decode.sets=[dev]", "--vary", "model.hidden_dim=16,24",
        "--exp", tmp_path, "-j", 1,
    )  # fmt: skip
    assert stages_run(output) == ["score", "dnn", "decode_dnn", "score"]
    linked = tmp_path / "tones" / "sweep" / "hidden_dim-24" / "features"
    assert linked.resolve() == (tmp_path / "tones" / "features").resolve()


def test_a_killed_sweep_goes_on_where_it_was(recipe: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "mariana_asr.cli", "sweep", str(recipe), "decode.sets=[dev]",
        "--vary", "model.hidden_dim=16,24", "--exp", str(tmp_path), "-j", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "sweep: 2 of 2" in line:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, said
    output = succeeded(*command[3:])
    assert set(stages_run(output)) <= {"dnn", "decode_dnn", "score"}
    figures = json.loads((tmp_path / "tones" / "sweep" / "sweep.json").read_text())
    assert [row["variant"] for row in figures["rows"] if row["system"] == "dnn"] == [
        "hidden_dim=16",
        "hidden_dim=24",
    ]


def test_variants_that_differ_in_the_choice_of_weights_train_once(
    recipe: Path, sweep_folder: Path
) -> None:
    output = succeeded(
        "sweep", recipe, "decode.sets=[dev]", "train.average=2", "train.keep_epochs=3",
        "train.schedule={type: cosine, epochs: 3}", "--vary", "train.select=loss,wer",
        "--exp", recipe.parent / "exp", "--table", "select", "-j", 1,
    )  # fmt: skip
    chosen = ["dnn", "decode_dnn", "score"]
    assert stages_run(output) == ["train_dnn", *chosen, *chosen]
    by_loss, by_errors = (
        json.loads((sweep_folder / f"select-{kind}" / "dnn" / "selection.json").read_text())
        for kind in ("loss", "wer")
    )
    assert [c["epochs"] for c in by_loss["candidates"]] == [[1], [2], [3], [2, 3]]
    for one, other in zip(by_loss["candidates"], by_errors["candidates"], strict=True):
        assert one["held_out_loss"] == other["held_out_loss"]
    losses = [c["held_out_loss"] for c in by_loss["candidates"]]
    assert losses[by_loss["chosen"]] == min(losses)
    errors = [c["errors"] for c in by_errors["candidates"]]
    assert errors[by_errors["chosen"]] == min(errors)
    # What was measured to choose is what the chosen one decodes with.
    results = json.loads((sweep_folder / "select-wer" / "results.json").read_text())
    (dev,) = (r for r in results if (r["system"], r["test_set"]) == ("dnn", "dev"))
    assert dev["errors"] == min(errors)
    page = (sweep_folder / "select-wer" / "report" / "index.html").read_text()
    assert "Which weights it ended with" in page
    assert "chosen among several" in succeeded("info", sweep_folder / "select-wer" / "dnn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--vary", "model.hidden_dims=3"],
            "variant hidden_dims-3: model.hidden_dims: unknown key",
        ),
        (["--seeds", "1,x"], "'1,x' are not seeds"),
        (["--seeds", "1,1"], "a seed is given twice"),
        (["--mean", "model.hidden_dim"], "model.hidden_dim is not varied"),
        (["--system", "tri3"], "there is no system tri3. Choose of mono, dnn, all"),
        (["--vary", "model.hidden_dim=3,-1"], "variant hidden_dim--1: model.hidden_dim"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    recipe: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    output = failed("sweep", recipe, *arguments, "--exp", tmp_path / "exp")
    assert message in " ".join(output.split())
    assert not (tmp_path / "exp").exists()
