"""The runner: what is skipped, what runs again and why, and what a kill leaves behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mariana_asr.errors import DataError, StageError
from mariana_asr.recipe.runner import (
    SharedStages,
    Stage,
    experiment_lock,
    plan_stages,
    run_stages,
)


class Experiment:
    """Two stages, the second reading the first's output; counts how often each runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[str] = []

    def stages(self, *, word: str = "a", copies: int = 2, files: tuple[Path, ...] = ()):
        def first(out: Path) -> None:
            self.runs.append("first")
            (out / "word").write_text(word)

        def second(out: Path) -> None:
            self.runs.append("second")
            (out / "words").write_text((self.folder / "first" / "word").read_text() * copies)

        return [
            Stage("first", first, {"word": word}, files=files),
            Stage("second", second, {"copies": copies}, after=("first",)),
        ]

    def statuses(self, **changes) -> list[str]:
        return [p.status for p in plan_stages(self.stages(**changes), self.folder)]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path / "exp")


def test_finished_stages_do_not_run_again(experiment: Experiment) -> None:
    run_stages(experiment.stages(), experiment.folder)
    run_stages(experiment.stages(), experiment.folder)
    assert experiment.runs == ["first", "second"]
    assert (experiment.folder / "second" / "words").read_text() == "aa"


def test_a_changed_option_runs_its_stage_and_those_after_it(experiment: Experiment) -> None:
    run_stages(experiment.stages(), experiment.folder)
    run_stages(experiment.stages(copies=3), experiment.folder)
    assert experiment.runs == ["first", "second", "second"]
    run_stages(experiment.stages(word="b", copies=3), experiment.folder)
    assert experiment.runs[3:] == ["first", "second"]
    assert (experiment.folder / "second" / "words").read_text() == "bbb"


def test_the_plan_names_the_key_that_changed(experiment: Experiment) -> None:
    run_stages(experiment.stages(), experiment.folder)
    first, second = plan_stages(experiment.stages(word="b"), experiment.folder)
    assert (first.status, first.reason) == ("to run", "options.word: a -> b")
    assert (second.status, second.reason) == ("to run", "first will run")


def test_a_changed_outside_file_runs_its_stage(experiment: Experiment, tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("one W AH N\n")
    run_stages(experiment.stages(files=(lexicon,)), experiment.folder)
    assert experiment.statuses(files=(lexicon,)) == ["up to date", "up to date"]
    lexicon.write_text("two T UW\n")
    assert experiment.statuses(files=(lexicon,)) == ["to run", "to run"]


def test_a_missing_outside_file_is_named(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lexicon\.txt: cannot read"):
        experiment.statuses(files=(tmp_path / "lexicon.txt",))


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_a_damaged_output_runs_its_stage(experiment: Experiment, damage: str) -> None:
    run_stages(experiment.stages(), experiment.folder)
    output = experiment.folder / "second" / "words"
    output.unlink() if damage == "remove" else output.write_text("a")
    assert experiment.statuses() == ["up to date", "to run"]
    run_stages(experiment.stages(), experiment.folder)
    assert output.read_text() == "aa"


def test_a_damaged_record_runs_its_stage(experiment: Experiment) -> None:
    run_stages(experiment.stages(), experiment.folder)
    (experiment.folder / "first" / "stage.json").write_text('{"stage": "fir')
    assert experiment.statuses() == ["to run", "to run"]


def test_what_another_fingerprint_left_is_removed_before_a_stage_runs(
    experiment: Experiment,
) -> None:
    run_stages(experiment.stages(), experiment.folder)
    stale = experiment.folder / "first" / "stale"
    stale.write_text("old")
    run_stages(experiment.stages(word="b"), experiment.folder)
    assert not stale.exists()


def test_an_interrupted_stage_continues_with_what_it_left(tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    found: list[bool] = []

    def run(out: Path) -> None:
        found.append((out / "checkpoint").exists())
        (out / "checkpoint").write_text("half")
        if len(found) == 1:
            raise KeyboardInterrupt

    stages = [Stage("dnn", run)]
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, folder)
    assert plan_stages(stages, folder)[0].status == "to continue"
    run_stages(stages, folder)
    assert found == [False, True]


def test_a_stage_that_continues_loses_what_was_being_written(tmp_path: Path) -> None:
    def run(out: Path) -> None:
        half = out / "test" / ".hyp.txt.1.part"
        if half.exists():
            raise StageError("still there")
        if not half.parent.exists():
            half.parent.mkdir()
            half.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([Stage("decode", run)], tmp_path)
    run_stages([Stage("decode", run)], tmp_path)
    assert not list((tmp_path / "decode" / "test").iterdir())


def test_a_failed_stage_is_never_taken_for_a_finished_one(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("half")
        raise StageError("no utterance could be used")

    with pytest.raises(StageError):
        run_stages([Stage("mono", fail)], tmp_path)
    assert plan_stages([Stage("mono", fail)], tmp_path)[0].status == "to continue"


def test_a_run_killed_at_any_moment_is_repaired_by_the_next(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from mariana_asr.recipe.runner import Stage, run_stages

            folder = Path(sys.argv[1])

            def stage(name, before):
                def run(out):
                    text = "".join((folder / b / "text").read_text() for b in before)
                    (out / "text").write_text(text[: len(text) // 2])
                    print(name, flush=True)
                    time.sleep(0.05)
                    (out / "text").write_text(text + name)
                return Stage(name, run, after=tuple(before))

            run_stages([stage("a", []), stage("b", ["a"]), stage("c", ["a", "b"])], folder)
            """
        )
    )
    for kill_after in ("a", "b", "c"):
        folder = tmp_path / f"exp_{kill_after}"
        command = [sys.executable, str(program), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == kill_after:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert [(folder / n / "text").read_text() for n in "abc"] == ["a", "ab", "aabc"]


def test_two_runs_of_one_experiment_at_once_are_refused(tmp_path: Path) -> None:
    def run_again(out: Path) -> None:
        run_stages([], tmp_path)

    with pytest.raises(StageError, match="another run is at work"):
        run_stages([Stage("outer", run_again)], tmp_path)


class Variants:
    """Experiments that share stages, beside a base experiment; counts what runs."""

    def __init__(self, folder: Path) -> None:
        self.base = folder
        self.shared = SharedStages(folder / "sweep" / "stages", (folder,))
        self.runs: list[str] = []

    def folder(self, name: str) -> Path:
        return self.base / "sweep" / name

    def stages(self, folder: Path, word: str, copies: int) -> list[Stage]:
        def first(out: Path) -> None:
            self.runs.append("first")
            (out / "word").write_text(word)
            (out / "place").write_text(str(out.absolute()))

        def second(out: Path) -> None:
            self.runs.append("second")
            (out / "words").write_text((folder / "first" / "word").read_text() * copies)

        def last(out: Path) -> None:
            self.runs.append("last")
            (folder / "RESULTS").write_text((folder / "second" / "words").read_text())

        return [
            Stage("first", first, {"word": word}),
            Stage("second", second, {"copies": copies}, after=("first",)),
            Stage("last", last, after=("second",), published=("RESULTS",)),
        ]

    def run(self, name: str, word: str = "a", copies: int = 2) -> list[str]:
        """Run a variant; returns the stages that ran."""
        before = len(self.runs)
        run_stages(self.stages(self.folder(name), word, copies), self.folder(name), self.shared)
        return self.runs[before:]

    def run_base(self, word: str = "a", copies: int = 2) -> list[str]:
        before = len(self.runs)
        run_stages(self.stages(self.base, word, copies), self.base)
        return self.runs[before:]

    def result(self, name: str) -> str:
        return (self.folder(name) / "RESULTS").read_text()


@pytest.fixture
def variants(tmp_path: Path) -> Variants:
    return Variants(tmp_path / "exp" / "x")


def test_what_another_experiment_has_made_is_shared_and_not_run_again(variants: Variants) -> None:
    assert variants.run("one", copies=1) == ["first", "second", "last"]
    assert variants.run("three", copies=3) == ["second", "last"]
    assert variants.run("three", copies=3) == []
    assert [variants.result(name) for name in ("one", "three")] == ["a", "aaa"]
    links = [variants.folder(name) / "first" for name in ("one", "three")]
    assert links[0].is_symlink()
    assert links[0].resolve() == links[1].resolve()


def test_paths_that_a_shared_stage_writes_do_not_lead_through_one_experiment(
    variants: Variants,
) -> None:
    variants.run("one")
    place = Path((variants.folder("one") / "first" / "place").read_text())
    assert place.is_relative_to(variants.shared.store.absolute())


def test_finished_stages_of_the_base_experiment_are_taken(variants: Variants) -> None:
    variants.run_base(copies=2)
    assert variants.run("three", copies=3) == ["second", "last"]
    assert (variants.folder("three") / "first").resolve() == variants.base / "first"


def test_a_base_that_is_run_with_other_options_leaves_the_others_as_they_are(
    variants: Variants,
) -> None:
    variants.run_base(word="a", copies=2)
    variants.run("three", word="a", copies=3)
    variants.run_base(word="b", copies=2)
    assert variants.result("three") == "aaa"
    # The base has taken its first stage along; the second one was made from it and still is.
    assert variants.run("three", word="a", copies=3) == ["first"]
    assert (variants.folder("three") / "first" / "word").read_text() == "a"
    assert (variants.base / "first" / "word").read_text() == "b"
    assert variants.run_base(word="b", copies=2) == []


def test_an_experiment_whose_options_change_leaves_the_others_as_they_are(
    variants: Variants,
) -> None:
    variants.run("one")
    variants.run("two")
    assert variants.run("one", word="b") == ["first", "second", "last"]
    assert [variants.result(name) for name in ("one", "two")] == ["bb", "aa"]
    assert (variants.folder("two") / "first" / "word").read_text() == "a"
    assert variants.run("two") == []


def test_a_run_that_shares_nothing_replaces_links_and_not_what_they_lead_to(
    variants: Variants,
) -> None:
    variants.run("one")
    variants.run("two")
    folder = variants.folder("one")
    run_stages(variants.stages(folder, "b", 1), folder)
    assert not (folder / "first").is_symlink()
    assert variants.result("one") == "b"
    assert (variants.folder("two") / "first" / "word").read_text() == "a"
    assert variants.run("two") == []


def test_a_shared_stage_that_is_not_whole_is_made_again(variants: Variants) -> None:
    variants.run("one")
    variants.run("two", copies=3)
    (variants.folder("one") / "first" / "word").unlink()
    assert variants.run("two", copies=3) == ["first"]
    assert variants.run("one") == []


def test_an_interrupted_shared_stage_is_continued_by_whoever_needs_it(tmp_path: Path) -> None:
    shared = SharedStages(tmp_path / "stages")
    found: list[bool] = []

    def run(out: Path) -> None:
        found.append((out / "checkpoint").exists())
        (out / "checkpoint").write_text("half")
        if len(found) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([Stage("dnn", run)], tmp_path / "one", shared)
    run_stages([Stage("dnn", run)], tmp_path / "two", shared)
    run_stages([Stage("dnn", run)], tmp_path / "one", shared)
    assert found == [False, True]


def test_a_stage_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from mariana_asr.recipe.runner import SharedStages, Stage, run_stages

            base, name = Path(sys.argv[1]), sys.argv[2]

            def run(out):
                print("running", flush=True)
                time.sleep(0.5)
                (out / "text").write_text(name)

            run_stages([Stage("a", run)], base / name, SharedStages(base / "stages"))
            """
        )
    )
    command = [sys.executable, str(program), str(tmp_path)]
    first = subprocess.Popen([*command, "one"], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "running\n"
    second = subprocess.run([*command, "two"], check=True, capture_output=True, text=True)
    assert first.wait() == 0
    assert second.stdout == ""
    assert (tmp_path / "two" / "a" / "text").read_text() == "one"


def test_an_experiment_whose_stages_are_in_use_is_not_run(variants: Variants) -> None:
    with experiment_lock(variants.base, reading=True):
        with experiment_lock(variants.base, reading=True):
            pass
        with pytest.raises(StageError, match="another run is at work"):
            variants.run_base()
    assert variants.run_base() == ["first", "second", "last"]
