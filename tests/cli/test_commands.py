"""The command line: exit statuses, messages without tracebacks, and what each command prints."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from invoking import failed, run, succeeded

from mariana_asr.cli.main import main


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Three utterances of two speakers, of noise."""
    path = tmp_path / "data"
    path.mkdir()
    generator = np.random.default_rng(0)
    utterances = ["ann-1", "ann-2", "bob-1"]
    for name in utterances:
        soundfile.write(path / f"{name}.wav", generator.normal(0, 0.1, 8000), 16000)
    (path / "wav.scp").write_text("".join(f"{u} {path / u}.wav\n" for u in utterances))
    (path / "text").write_text("".join(f"{u} one two\n" for u in utterances))
    (path / "utt2spk").write_text("".join(f"{u} {u[:3]}\n" for u in utterances))
    (path / "spk2utt").write_text("ann ann-1 ann-2\nbob bob-1\n")
    return path


@pytest.mark.parametrize("command", main.list_commands(click.Context(main)))
def test_every_command_has_help(command: str) -> None:
    assert "Usage:" in succeeded(command, "--help")


def test_an_unknown_command_is_refused() -> None:
    assert run("trian").exit_code == 2


def test_validate_says_that_a_right_directory_is_right(data_dir: Path) -> None:
    assert "nothing wrong" in succeeded("validate", data_dir, "--read-data", "--jobs", 1)


def test_validate_lists_every_problem_and_fix_mends_them(data_dir: Path) -> None:
    (data_dir / "utt2spk").write_text("bob-1 bob\nann-2 ann\nann-1 ann\n")
    (data_dir / "text").write_text("ann-1 one\nann-2 two\n")
    output = failed("validate", data_dir)
    assert "utt2spk" in output
    assert "bob-1" in output
    assert "nothing wrong" in succeeded("validate", data_dir, "--fix")
    assert (data_dir / "utt2spk").read_text() == "ann-1 ann\nann-2 ann\n"


def test_validate_checks_a_recipe_with_its_data(data_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("corpus: {train: data, test: data, dev_speakers: [bob]}\n")
    assert "nothing wrong; 11 stages" in succeeded("validate", recipe)
    assert "did you mean 'speakers'" not in failed("validate", recipe, "model.hiddn=3")
    assert "no such data directory" in failed("validate", recipe, "corpus.train=nowhere")
    assert "unknown speakers: eve" in failed("validate", recipe, "corpus.dev_speakers=[eve]")


def test_validate_checks_lang_directories(golden: Path) -> None:
    assert "nothing wrong" in succeeded("validate", golden / "an4_kaldi" / "lang")


def test_subset_and_split_write_right_directories(data_dir: Path, tmp_path: Path) -> None:
    succeeded("subset", data_dir, tmp_path / "two", "--utterances", 2)
    succeeded("subset", data_dir, tmp_path / "ann", "--speakers", "ann")
    succeeded("split", data_dir, 2, tmp_path / "split")
    for part, utterances in (("two", 2), ("ann", 2), ("split/1", 2), ("split/2", 1)):
        succeeded("validate", tmp_path / part)
        assert len((tmp_path / part / "text").read_text().splitlines()) == utterances
    assert "unknown speakers: eve" in failed("subset", data_dir, tmp_path / "x", "--speakers=eve")
    assert "either" in failed("subset", data_dir, tmp_path / "x")


def test_train_refuses_a_misspelt_key_before_anything_runs(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("corpus: {preparer: an4}\ntrain: {learnin_rate: 1}\n")
    output = failed("train", recipe, "--exp", tmp_path / "exp")
    assert "train.learnin_rate: unknown key; did you mean 'learning_rate'?" in output
    assert not (tmp_path / "exp").exists()


def test_a_dry_run_lists_the_stages_and_writes_nothing(data_dir: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("corpus: {train: data, test: data, dev_speakers: [bob]}\n")
    output = succeeded("train", recipe, "--dry-run", "--exp", tmp_path / "exp")
    assert "decode_mono" in output
    assert "not run yet" in output
    assert not (tmp_path / "exp").exists()


def test_features_are_made_and_described(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    output = succeeded("features", data_dir, out, "-j", 1, "type=fbank", "num_mel_bins=30")
    assert "3 utterances, 144 frames of 30 values" in output
    settings = json.loads((out / "features.json").read_text())
    assert (settings["type"], settings["num_mel_bins"]) == ("fbank", 30)
    described = succeeded("info", out)
    assert "data directory" in described
    assert "144" in described
    assert "3" in succeeded("info", out / "feats.scp")


def test_a_wrong_feature_option_is_named(data_dir: Path, tmp_path: Path) -> None:
    output = failed("features", data_dir, tmp_path / "feats", "num_cep=13")
    assert "num_cep: unknown key; did you mean 'num_ceps'?" in output
    assert not (tmp_path / "feats").exists()


def test_utterances_without_usable_audio_are_listed(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "ann-1.wav").write_bytes((data_dir / "ann-1.wav").read_bytes()[:5000])
    soundfile.write(data_dir / "ann-2.wav", np.zeros((8000, 2)), 16000)
    output = succeeded("features", data_dir, tmp_path / "feats", "-j", 1)
    assert "2 skipped" in output
    skipped = (tmp_path / "feats" / "skipped.txt").read_text()
    assert "ann-1" in skipped
    assert "2 channels" in skipped


def test_a_pipe_in_wav_scp_needs_permission(data_dir: Path, tmp_path: Path) -> None:
    lines = [f"{u} cat {data_dir / u}.wav |\n" for u in ("ann-1", "ann-2", "bob-1")]
    (data_dir / "wav.scp").write_text("".join(lines))
    assert "--allow-pipes" in failed("features", data_dir, tmp_path / "feats", "-j", 1)
    arguments = ("features", data_dir, tmp_path / "feats", "-j", 1, "--allow-pipes")
    assert "3 utterances" in succeeded(*arguments)


def test_score_prints_kaldis_line(tmp_path: Path) -> None:
    (tmp_path / "ref").write_text("a ONE TWO THREE\nb FOUR\n")
    (tmp_path / "hyp").write_text("a ONE TWO TWO THREE\nb\n")
    output = succeeded("score", tmp_path / "ref", tmp_path / "hyp")
    assert output.startswith("%WER 50.00 [ 2 / 4, 1 ins, 1 del, 0 sub ]")
    output = succeeded("score", tmp_path / "ref", tmp_path / "hyp", "--metric", "cer")
    assert output.startswith("%CER 46.67 [ 7 / 15, 3 ins, 4 del, 0 sub ]")


def test_info_names_what_it_knows(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not one of" in failed("info", tmp_path / "notes.txt")
    assert "not one of" in failed("info", tmp_path)


def test_info_describes_kaldis_models_and_lang(golden: Path) -> None:
    kaldi = golden / "an4_kaldi"
    output = succeeded("info", kaldi / "mono" / "final.mdl")
    assert "104" in output
    assert "975" in output
    output = succeeded("info", kaldi / "lang")
    assert "lang directory" in output
    assert "<UNK>" in output
    assert "integer vectors" in succeeded("info", kaldi / "mono" / "train_ali.ark")


def test_doctor_reports_versions_devices_and_corpora() -> None:
    output = succeeded("doctor")
    for part in ("kaldi-hmm-gmm", "torch", "gloo", "MARIANA_CORPORA", "Everything that is needed"):
        assert part in output


def test_prepare_tells_where_a_corpus_may_lie(tmp_path: Path) -> None:
    output = failed("prepare", "an4", tmp_path / "an4", f"corpus_dir={tmp_path / 'nowhere'}")
    assert "nowhere" in output
