"""The recipes on real speech, whole, with the error rates that they have to reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.recipes

RECIPES = Path(__file__).parents[2] / "recipes"
Rates = dict[tuple[str, str], float]
"""(system, tuned_on) to the word error rate on the test set, in percent."""


def train(recipe: Path, exp: Path) -> Rates:
    command = [sys.executable, "-m", "mariana_asr.cli", "train", str(recipe), "--exp", str(exp)]
    subprocess.run(command, check=True)
    (experiment,) = exp.iterdir()
    results = json.loads((experiment / "results.json").read_text())
    return {
        (r["system"], r["tuned_on"]): r["percent"]
        for r in results
        if (r["metric"], r["test_set"]) == ("wer", "test")
    }


@pytest.fixture(scope="module")
def an4(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rates]:
    exp = tmp_path_factory.mktemp("an4")
    return exp / "an4", train(RECIPES / "an4" / "recipe.yaml", exp)


AN4_SYSTEMS = ("mono", "tri1", "tri2", "tri3", "dnn")


def test_an4_has_the_whole_ladder(an4: tuple[Path, Rates]) -> None:
    folder, rates = an4
    assert rates.keys() == {(s, tuned_on) for s in AN4_SYSTEMS for tuned_on in ("dev", "test")}
    assert (folder / "tri3" / "unadapted.txt").read_text() == ""
    for stage in (*AN4_SYSTEMS[:-1], "ali/train", "ali/dev"):
        assert (folder / stage / "skipped.txt").read_text() == "", stage


def test_an4s_best_network_is_below_the_best_gmm(corpora: Path, tmp_path: Path) -> None:
    """With seed 777 it has 5.43 and 5.30%, the GMM 6.99 and 6.86."""
    rates = train(RECIPES / "an4" / "best.yaml", tmp_path)
    assert rates["dnn", "test"] <= 6.0
    for tuned_on in ("dev", "test"):
        assert rates["dnn", tuned_on] <= 0.9 * rates["tri3", tuned_on]


@pytest.mark.parametrize(
    ("system", "highest"), [("mono", 13.5), ("tri1", 12.5), ("tri2", 13.0), ("tri3", 8.0)]
)
def test_an4_gmms_are_near_kaldis(an4: tuple[Path, Rates], system: str, highest: float) -> None:
    """Kaldi has 12.03, 9.96, 10.09 and 6.34% on the same recordings, scored in the same way.

    It trains on the 74 speakers of whom the recipe holds 7 out, one error is 0.13%, and runs that
    differ in a seed only differ by 1% and more; scripts/bench_align.py compares on equal terms.
    """
    assert an4[1][system, "test"] <= highest


@pytest.mark.parametrize("tuned_on", ["dev", "test"])
def test_an4_adaptation_and_the_network_help(an4: tuple[Path, Rates], tuned_on: str) -> None:
    rates = an4[1]
    assert rates["tri3", tuned_on] < 0.8 * rates["mono", tuned_on]
    assert rates["tri3", tuned_on] < min(rates["tri1", tuned_on], rates["tri2", tuned_on])
    assert rates["dnn", tuned_on] < 0.95 * rates["mono", tuned_on]


def test_an4_by_shell_commands_gives_the_recipes_results(
    an4: tuple[Path, Rates], tmp_path: Path
) -> None:
    script = RECIPES / "an4" / "run.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), "--exp", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("]")[0] for line in done.stdout.splitlines() if line.startswith("%WER")]
    expected = [line.split("]")[0] for line in (an4[0] / "RESULTS").read_text().splitlines()]
    assert lines == expected


def test_fsdd_single_digits_of_the_official_split(corpora: Path, tmp_path: Path) -> None:
    rates = train(RECIPES / "fsdd" / "single.yaml", tmp_path)
    assert rates["dnn", "dev"] <= 3.0


def test_fsdd_strings_of_a_speaker_left_out(corpora: Path, tmp_path: Path) -> None:
    rates = train(RECIPES / "fsdd" / "recipe.yaml", tmp_path)
    assert rates["dnn", "dev"] < 20.0
