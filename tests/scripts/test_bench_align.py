"""The benchmark of GMM training: its tables, its record and its measures, not its figures."""

import json
from pathlib import Path

import align_ladder
import bench_align
import pytest
from benchmark_record import markdown_table
from click.testing import CliRunner

from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.errors import DataError


def trained(rung: str, seed: int, seconds: float, kaldi: tuple[int, int]) -> dict[str, object]:
    parts = {
        "iterations_with_realignment": seconds - 3,
        "other_iterations": 2,
        "before_and_after": 1,
    }
    test = {"decoding": rung, "wer": 12.5, "errors": 25, "words": 200, "kaldi_wer": 12.03}
    test |= {"lm_weight": 9.0, "word_insertion_penalty": 0.5}
    return {
        "rung": rung,
        "seed": seed,
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "parts": parts,
        "kaldi_seconds": kaldi,
        "tests": [test],
    }


def test_help_tells_of_all_options() -> None:
    shown = CliRunner().invoke(bench_align.command, ["--help"])
    assert shown.exit_code == 0
    options = "--json --corpora --jobs --seeds --rungs --work --no-decode --memory --repeat"
    assert all(option in shown.output for option in options.split())


def test_unknown_rungs_and_seeds_are_refused() -> None:
    for words in (["--rungs", "mono,tri9"], ["--seeds", "0;1"]):
        refused = CliRunner().invoke(bench_align.command, words)
        assert refused.exit_code == 2
        assert words[0] in refused.output


def test_a_table_of_times_sums_up_each_seed() -> None:
    measured = [
        trained(rung, seed, seconds, kaldi)
        for seed in (0, 1)
        for rung, seconds, kaldi in (("mono", 10.0 + seed, (35, 52)), ("tri1", 20.0, (24, 32)))
    ]
    times, errors = bench_align.ladder_tables(measured).split("\n\n")
    assert times.splitlines()[2:] == [
        "| mono | 0 | 10.0 | 35 to 52 | 20.0 | 7.0 | 2.0 | 1.0 |",
        "| tri1 | 0 | 20.0 | 24 to 32 | 40.0 | 17.0 | 2.0 | 1.0 |",
        "| all | 0 | 30.0 | 59 to 84 | 60.0 |  |  |  |",
        "| mono | 1 | 11.0 | 35 to 52 | 22.0 | 8.0 | 2.0 | 1.0 |",
        "| tri1 | 1 | 20.0 | 24 to 32 | 40.0 | 17.0 | 2.0 | 1.0 |",
        "| all | 1 | 31.0 | 59 to 84 | 62.0 |  |  |  |",
    ]
    assert errors.splitlines()[2] == "| mono | 0 | 12.50 | 25 of 200 | 12.03 | +0.47 | 9 / 0.5 |"
    columns = {line.count("|") for table in (times, errors) for line in table.splitlines()[:3]}
    assert columns == {9, 8}


def test_memory_stands_in_columns_by_size() -> None:
    measured = [
        {"rung": "mono", "repeat": 1, "parent": 90.2, "worker": 100.7},
        {"rung": "tri1", "repeat": 1, "parent": 130.0, "worker": 120.0},
        {"rung": "mono", "repeat": 4, "parent": 91.0, "worker": 100.9},
    ]
    assert bench_align.memory_table(measured).splitlines() == [
        "| rung | process | 1x | 4x |",
        "| --- | --- | --- | --- |",
        "| mono | main | 90 | 91 |",
        "| mono | largest worker | 101 | 101 |",
        "| tri1 | main | 130 |  |",
        "| tri1 | largest worker | 120 |  |",
    ]


def test_a_run_writes_its_figures_with_machine_date_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [trained("mono", 0, 10.0, (35, 52))]
    given = []

    def ladder(*arguments: object, **options: object) -> list[dict[str, object]]:
        given.extend([arguments, options])
        return figures

    monkeypatch.setattr(bench_align, "time_ladder", ladder)
    words = ["--json", str(tmp_path / "a.json"), "--work", str(tmp_path), "--rungs", "tri1,mono"]
    words += ["--seeds", "3", "--jobs", "5", "--no-decode", "--corpora", str(tmp_path)]
    done = CliRunner().invoke(bench_align.command, words)
    assert done.exit_code == 0, done.output
    assert given == [
        (tmp_path / "an4", tmp_path, ["mono", "tri1"], [3]),
        {"jobs": 5, "decodes": False},
    ]
    assert bench_align.ladder_tables(figures) in done.output
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["ladder"] == json.loads(json.dumps(figures))
    assert record["machine"]["cores"] >= 1
    assert record["versions"].keys() >= {"python", "numpy", "kaldifst"}
    assert {"date", "settings", "load_average_before", "load_average_after"} <= record.keys()


def test_a_rung_without_the_one_before_says_what_to_do(tmp_path: Path) -> None:
    options = align_ladder.RUNGS["tri2"].options
    with pytest.raises(DataError, match="Add tri1 to --rungs"):
        align_ladder.train_rung("tri2", tmp_path, tmp_path, tmp_path, options, 1)


def test_a_repeated_corpus_has_the_same_features_under_new_names(tmp_path: Path) -> None:
    data = DataDir(
        tmp_path,
        {"a-1": "a", "b-1": "b"},
        text={"a-1": "YES", "b-1": "NO"},
        wav={"a-1": "a.wav", "b-1": "b.wav"},
        feats={"a-1": "feats.ark:5", "b-1": "feats.ark:90"},
        cmvn={"a": "cmvn.ark:2", "b": "cmvn.ark:40"},
    )
    align_ladder.repeated(data, 3, tmp_path / "three").write()
    three = read_data_dir(tmp_path / "three")
    assert len(three.utt2spk) == 6
    assert len(three.spk2utt) == 6
    assert all(utterance.startswith(speaker) for utterance, speaker in three.utt2spk.items())
    for utterance in three.utterances:
        original = utterance.split("-", 1)[1]
        assert three.text[utterance] == data.text[original]
        assert three.feats[utterance] == data.feats[original]
        assert three.cmvn[three.utt2spk[utterance]] == data.cmvn[data.utt2spk[original]]


@pytest.mark.parametrize("name", align_ladder.RUNGS)
def test_a_shortened_schedule_reaches_all_gaussians_and_still_adapts(name: str) -> None:
    options = align_ladder.shortened(align_ladder.RUNGS[name].options)
    assert type(options).model_validate(options.model_dump()) == options
    assert options.totgauss == align_ladder.RUNGS[name].options.totgauss
    assert options.max_iter_inc < options.num_iters - 1
    assert any(iteration < options.num_iters for iteration in options.realign_iters)
    for key in ("mllt_iters", "fmllr_iters"):
        assert max(getattr(options, key, (4,))) == options.num_iters - 1


def test_tables_have_empty_cells_for_what_is_not_known() -> None:
    assert markdown_table(("a", "b"), [(1, None)]) == "| a | b |\n| --- | --- |\n| 1 |  |"
