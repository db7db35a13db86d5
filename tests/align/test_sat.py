"""Speaker-adapted training on made-up speech of speakers who differ by known transforms."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from coloured_speech import PLAIN, SPLICED, Coloured, coloured
from made_speech import DIM, phone_accuracy, write_data_dir
from plain_statistics import plain_statistics
from pydantic import ValidationError

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.training.lda_mllt import LdaMlltOptions, train_lda_mllt
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.training.passes import fmllr_pass, unadapted_pass
from mariana_asr.align.training.sat import SatOptions, train_sat
from mariana_asr.align.training.triphone import DeltasOptions, train_deltas
from mariana_asr.align.transforms.fmllr import FmllrOptions
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import read_matrix, write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, RecipeError, StageError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import (
    apply_linear,
    compose_affine,
    read_speaker_transforms,
    write_speaker_transforms,
)

SIZES = {
    "num_leaves": 40,
    "thresh": 20,
    "totgauss": 60,
    "num_iters": 8,
    "max_iter_inc": 5,
    "realign_iters": (2, 4, 6),
}
SHORT = SatOptions(**SIZES, fmllr_iters=(2, 4, 6), fmllr=FmllrOptions(min_count=100))
SHORTEST = SHORT.model_copy(update={"num_iters": 4, "realign_iters": (2,)})
FILES = (
    "ali.1.gz cmvn_opts delta_opts final.alimdl final.mdl final.occs front_end.json log.jsonl "
    "num_jobs phones.txt skipped.txt trans.1 tree unadapted.txt"
)
SPEAKERS = ["s0", "s1", "s2", "s3"]
UNIT = np.eye(DIM, DIM + 1)


@pytest.fixture(scope="module")
def speech(made, tmp_path_factory) -> Coloured:
    return coloured(made, tmp_path_factory.mktemp("coloured"), colour=1, apart=1)


@pytest.fixture(scope="module")
def tri(speech, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    mono = MonoOptions(num_iters=9, max_iter_inc=6, totgauss=60, transform=PLAIN)
    train_mono(speech.data, speech.lang, mono, folder / "mono")
    options = DeltasOptions(**SIZES, transform=PLAIN)
    train_deltas(speech.data, speech.lang, folder / "mono", options, folder / "tri")
    return folder / "tri"


@pytest.fixture(scope="module")
def sat(speech, tri, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sat")
    train_sat(speech.data, speech.lang, tri, SHORT, folder)
    return folder


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def accuracy(folder: Path, speech: Coloured) -> float:
    model = read_gmm_model(folder / "final.mdl")
    return phone_accuracy(read_alignments(folder), speech, model.transition_model)


def unadapted_in(folder: Path) -> dict[str, str]:
    lines = (folder / "unadapted.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_training_writes_a_whole_system_that_is_better_than_its_source(speech, tri, sat):
    assert sorted(path.name for path in sat.iterdir()) == FILES.split()
    assert read_alignments(sat).keys() == speech.truth.keys()
    assert accuracy(sat, speech) > max(accuracy(tri, speech) + 0.01, 0.98)
    assert FrontEnd.load(sat) == FrontEnd.load(tri)
    assert unadapted_in(sat) == {}
    log = log_of(sat)
    assert [entry["iteration"] for entry in log] == list(range(1, 8))
    adapted = {
        e["iteration"]: e["fmllr_improvement_per_frame"] for e in log if "adapted_speakers" in e
    }
    assert list(adapted) == [2, 4, 6]
    assert all(gain > 0 for gain in adapted.values())
    assert adapted[6] < adapted[2]
    assert {e.get("adapted_speakers", 4) for e in log} == {4}
    assert log[-1]["log_likelihood_per_frame"] > log[0]["log_likelihood_per_frame"] + 0.3


def test_the_transforms_undo_what_makes_speakers_differ(speech, sat):
    transforms = read_speaker_transforms(sat)
    assert sorted(transforms) == SPEAKERS

    def spread(matrices: list[np.ndarray]) -> float:
        """How far speakers are from one another, by the changes of typical frames."""
        frames = np.random.default_rng(0).normal(size=(100, DIM)) * 6
        moved = [frames @ matrix[:, :DIM].T + matrix[:, DIM] for matrix in matrices]
        return float(np.std(moved, axis=0).mean() / np.std(moved))

    apart = [speech.distortions[speaker] for speaker in SPEAKERS]
    undone = [compose_affine(transforms[s], speech.distortions[s]) for s in SPEAKERS]
    assert spread(undone) < 0.25 * spread(apart)


def frames_of(folder: Path, speech: Coloured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features without and with their speakers' transforms, and the pdf of each frame."""
    front_end, transforms = FrontEnd.load(folder), read_speaker_transforms(folder)
    pdfs = transition_id_to_pdf(read_gmm_model(folder / "final.mdl").transition_model)
    alignments = read_alignments(folder)
    plain = dict(front_end.iterate(speech.data))
    adapted = dict(front_end.iterate(speech.data, speakers=transforms))
    return (
        np.concatenate([plain[u] for u in alignments]),
        np.concatenate([adapted[u] for u in alignments]),
        pdfs[np.concatenate(list(alignments.values()))],
    )


def test_the_model_is_of_the_features_that_the_transforms_beside_it_give(speech, sat):
    gmm = read_gmm_model(sat / "final.mdl").gmm
    plain, adapted, pdfs = frames_of(sat, speech)
    each = np.arange(len(pdfs))
    per_frame = [gmm.log_likelihoods(feats)[each, pdfs].mean() for feats in (plain, adapted)]
    last = log_of(sat)[-1]["log_likelihood_per_frame"]
    assert last < per_frame[1] < last + 0.2
    assert per_frame[0] < last - 0.5


def test_the_model_of_unadapted_features_matches_gaussian_for_gaussian(speech, sat):
    """Its Gaussians are the moments of the unadapted frames, weighted by the adapted model's."""
    adapted, unadapted = (read_gmm_model(sat / name) for name in ("final.mdl", "final.alimdl"))
    assert unadapted.gmm.offsets.tolist() == adapted.gmm.offsets.tolist()
    assert str(unadapted.transition_model) == str(adapted.transition_model)
    plain, feats, pdfs = frames_of(sat, speech)
    sums, _ = plain_statistics(adapted.gmm, feats, pdfs, plain)
    occupancy = sums[:, :1]
    seen = occupancy[:, 0] > 15  # those with fewer than 10 frames stay as they were
    means = sums[seen, 1 : DIM + 1] / occupancy[seen]
    variances = sums[seen, DIM + 1 :] / occupancy[seen] - means**2
    assert seen.sum() > 30
    np.testing.assert_allclose(unadapted.gmm.means[seen], means, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(unadapted.gmm.variances[seen], variances, rtol=2e-2, atol=1e-3)
    log_like = [
        m.gmm.log_likelihoods(plain)[np.arange(len(pdfs)), pdfs].mean()
        for m in (adapted, unadapted)
    ]
    assert log_like[1] > log_like[0] + 0.3


def test_the_unadapted_model_keeps_gaussians_without_frames(speech, tri, tmp_path, monkeypatch):
    def every_third_is_never_seen(*arguments):
        stats = unadapted_pass(*arguments)
        stats.sums[::3] = 0
        return stats

    monkeypatch.setattr("mariana_asr.align.training.sat.unadapted_pass", every_third_is_never_seen)
    train_sat(speech.data, speech.lang, tri, SHORTEST, tmp_path)
    adapted, unadapted = (read_gmm_model(tmp_path / name) for name in ("final.mdl", "final.alimdl"))
    assert unadapted.gmm.offsets.tolist() == adapted.gmm.offsets.tolist()
    np.testing.assert_allclose(unadapted.gmm.means[::3], adapted.gmm.means[::3], rtol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_processes(speech, tri, tmp_path):
    for jobs in (1, 2):
        train_sat(speech.data, speech.lang, tri, SHORTEST, tmp_path / str(jobs), jobs=jobs)
    for name in ("final.mdl", "final.alimdl", "trans.1", "tree", "final.occs"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_source_with_a_matrix_passes_it_on(speech, tri, tmp_path):
    options = LdaMlltOptions(**SIZES | {"num_iters": 4}, dim=6, transform=SPLICED)
    train_lda_mllt(speech.data, speech.lang, tri, options, tmp_path / "lda")
    train_sat(speech.data, speech.lang, tmp_path / "lda", SHORTEST, tmp_path / "sat")
    for name in ("final.mat", "splice_opts", "front_end.json"):
        assert (tmp_path / "sat" / name).read_bytes() == (tmp_path / "lda" / name).read_bytes()
    assert not (tmp_path / "sat/delta_opts").exists()
    assert read_speaker_transforms(tmp_path / "sat")["s0"].shape == (6, 7)
    assert accuracy(tmp_path / "sat", speech) > accuracy(tmp_path / "lda", speech)


def test_a_sources_transforms_are_taken_over(speech, sat, tmp_path, caplog):
    options = SHORTEST.model_copy(update={"fmllr_iters": ()})
    with caplog.at_level(logging.INFO):
        train_sat(speech.data, speech.lang, sat, options, tmp_path)
    assert (tmp_path / "trans.1").read_bytes() == (sat / "trans.1").read_bytes()
    assert f"transforms of 4 of 4 speakers from {sat}" in caplog.text
    assert unadapted_in(tmp_path) == {}
    assert not any("adapted_speakers" in entry for entry in log_of(tmp_path))


def test_transforms_that_a_source_lacks_are_estimated_with_its_model(speech, sat, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(sat, source)
    transforms = read_speaker_transforms(sat)
    kept = {s: matrix for s, matrix in transforms.items() if s != "s2"} | {"s1": UNIT, "s9": UNIT}
    write_speaker_transforms(source, kept)
    options = SHORTEST.model_copy(update={"fmllr_iters": ()})
    train_sat(speech.data, speech.lang, source, options, tmp_path / "sat")
    ours = read_speaker_transforms(tmp_path / "sat")
    assert sorted(ours) == SPEAKERS
    for speaker in ("s0", "s1", "s3"):
        np.testing.assert_array_equal(ours[speaker], np.float32(kept[speaker]))
    # The adapted model takes the speaker to where the lost transform did.
    frames = np.concatenate([read_matrix(p) for u, p in speech.data.feats.items() if "s2" in u])
    before, after = (apply_linear(np.float32(frames), t["s2"]) for t in (transforms, ours))
    assert np.abs(after - before).mean() < 0.3 * np.abs(frames - before).mean()
    assert unadapted_in(tmp_path / "sat") == {"s1": f"the unit transform in {source}"}


def test_new_transforms_come_after_those_from_before(speech, sat, tmp_path, monkeypatch):
    estimated = []

    def spy(*arguments):
        estimated.append(fmllr_pass(*arguments))
        return estimated[-1]

    monkeypatch.setattr("mariana_asr.align.training.sat.fmllr_pass", spy)
    options = SHORTEST.model_copy(update={"fmllr_iters": (1,), "num_iters": 2})
    train_sat(speech.data, speech.lang, sat, options, tmp_path)
    (new,) = estimated
    before, ours = read_speaker_transforms(sat), read_speaker_transforms(tmp_path)
    frames = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32) * 6
    for speaker in SPEAKERS:
        expected = apply_linear(apply_linear(frames, before[speaker]), new[speaker].matrix)
        np.testing.assert_allclose(apply_linear(frames, ours[speaker]), expected, atol=1e-4)
        swapped = apply_linear(apply_linear(frames, new[speaker].matrix), before[speaker])
        assert np.abs(swapped - expected).max() > 1e-3


def test_a_model_by_kaldi_needs_no_front_end_of_ours(speech, tri, tmp_path):
    source = tmp_path / "kaldi"
    shutil.copytree(tri, source)
    (source / "front_end.json").unlink()
    (source / "cmvn_opts").write_text("--norm-means=false\n")
    (source / "delta_opts").write_text("--delta-order=0\n")
    train_sat(speech.data, speech.lang, source, SHORTEST, tmp_path / "sat")
    front_end = FrontEnd.load(tmp_path / "sat")
    assert (front_end.dim, front_end.transform.normalises) == (DIM, False)
    assert (tmp_path / "sat/cmvn_opts").read_text() == "--norm-means=false --norm-vars=false\n"


def with_a_short_speaker(data: DataDir) -> tuple[DataDir, str]:
    utterance = data.utterances[25]
    return dataclasses.replace(data, utt2spk=data.utt2spk | {utterance: "short"}), utterance


def test_a_speaker_with_one_short_utterance_keeps_the_unit_transform(speech, tri, tmp_path, caplog):
    data, utterance = with_a_short_speaker(speech.data)
    options = SHORTEST.model_copy(update={"fmllr": FmllrOptions(min_count=500)})
    with caplog.at_level(logging.WARNING):
        train_sat(data, speech.lang, tri, options, tmp_path)
    reasons = unadapted_in(tmp_path)
    assert list(reasons) == ["short"]
    assert reasons["short"].endswith(" frames, of more than 500 wanted")
    assert 0 < int(reasons["short"].split()[0]) < len(speech.truth[utterance])
    assert "1 of 5 speakers are not adapted (short)" in caplog.text
    transforms = read_speaker_transforms(tmp_path)
    assert transforms["short"].tolist() == UNIT.tolist()
    assert not any(np.allclose(transforms[s], UNIT, atol=0.05) for s in SPEAKERS)
    assert log_of(tmp_path)[1]["adapted_speakers"] == 4
    assert read_alignments(tmp_path).keys() == speech.truth.keys()


def test_who_was_adapted_before_is_not_called_unadapted(speech, sat, tmp_path):
    """Later on, there is too little data to move on from the transforms taken over."""
    options = SHORTEST.model_copy(update={"fmllr": FmllrOptions(min_count=1e6)})
    train_sat(speech.data, speech.lang, sat, options, tmp_path)
    assert unadapted_in(tmp_path) == {}
    assert log_of(tmp_path)[1]["adapted_speakers"] == 0
    ours, before = read_speaker_transforms(tmp_path), read_speaker_transforms(sat)
    assert all(np.array_equal(ours[s], before[s]) for s in SPEAKERS)


def test_nobody_need_be_adapted(speech, tri, tmp_path, caplog):
    fmllr = FmllrOptions(update_type="none")
    options = SHORTEST.model_copy(update={"fmllr": fmllr, "fmllr_iters": (1, 2)})
    with caplog.at_level(logging.WARNING):
        train_sat(speech.data, speech.lang, tri, options, tmp_path)
    assert unadapted_in(tmp_path) == dict.fromkeys(SPEAKERS, "update_type is none")
    assert "4 of 4 speakers are not adapted" in caplog.text
    plain, adapted, _ = frames_of(tmp_path, speech)
    np.testing.assert_array_equal(plain, adapted)


@pytest.mark.parametrize("num_iters", [1, 2])
def test_iterations_may_end_before_the_first_that_estimates_transforms(
    speech, tri, tmp_path, num_iters
):
    options = SHORTEST.model_copy(update={"num_iters": num_iters})
    train_sat(speech.data, speech.lang, tri, options, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES.split()
    assert len(log_of(tmp_path)) == num_iters - 1
    transforms = read_speaker_transforms(tmp_path)
    assert not any(np.allclose(matrix, UNIT, atol=0.05) for matrix in transforms.values())


def test_bad_utterances_never_end_the_run(speech, tri, tmp_path):
    few, empty, longer, missing, *_ = speech.data.utterances[::6]
    text = speech.data.text | {few: "bado " * 40, empty: ""}
    source = tmp_path / "tri"
    shutil.copytree(tri, source)
    alignments = read_alignments(tri)
    alignments[longer] = np.append(alignments[longer], alignments[longer][-1])
    del alignments[missing]
    write_int_vectors(source / "ali.1.gz", alignments.items())
    data = dataclasses.replace(speech.data, text=text)
    train_sat(data, speech.lang, source, SHORTEST, tmp_path / "sat")
    lines = (tmp_path / "sat/skipped.txt").read_text().splitlines()
    assert dict(line.split(" ", 1) for line in lines).keys() == {few, empty}
    assert read_alignments(tmp_path / "sat").keys() == speech.truth.keys() - {few, empty}


@pytest.mark.parametrize("realign_iters", [(), (2,)])
def test_without_a_usable_utterance_nothing_of_a_model_is_left(
    speech, tri, tmp_path, realign_iters
):
    data = speech.data.subset(speech.data.utterances[:12])
    data = dataclasses.replace(data, text=dict.fromkeys(data.text, "bado " * 40))
    options = SHORTEST.model_copy(update={"realign_iters": realign_iters, "num_iters": 3})
    with pytest.raises(StageError, match="SAT training: none of 12 utterances could be used"):
        train_sat(data, speech.lang, tri, options, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "skipped.txt"]


def test_what_does_not_fit_the_source_is_refused(speech, tri, sat, tmp_path):
    other = write_data_dir(tmp_path / "data", {"a": np.ones((9, 3))}, {"a": "ba"}, {"a": "a"})
    with pytest.raises(FormatError, match="3 dimensions, the model was trained on 4"):
        train_sat(other, speech.lang, tri, SHORT, tmp_path / "out")
    source = tmp_path / "source"
    shutil.copytree(tri, source)
    (source / "phones.txt").write_text((tri / "phones.txt").read_text().replace("A 3", "AA 3"))
    with pytest.raises(FormatError, match=r"other phones than .*: A, AA"):
        train_sat(speech.data, speech.lang, source, SHORT, tmp_path / "out")
    with pytest.raises(RecipeError, match="Name another directory"):
        train_sat(speech.data, speech.lang, sat, SHORT, sat)
    shutil.copy(tri / "phones.txt", source)
    write_speaker_transforms(source, dict.fromkeys(SPEAKERS, np.eye(3, 4)))
    with pytest.raises(FormatError, match=r"shape \(3, 4\) for features of 4 dimensions"):
        train_sat(speech.data, speech.lang, source, SHORT, tmp_path / "out")
    (source / "trans.1").write_bytes(b"s0 nonsense")
    with pytest.raises(DataError, match=r"trans\.1: damaged archive"):
        train_sat(speech.data, speech.lang, source, SHORT, tmp_path / "out")
    assert not list((tmp_path / "out").glob("final.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": PLAIN}, "Extra inputs are not permitted"),
        ({"fmllr": {"min_count": -1}}, "greater than or equal to 0"),
        ({"fmllr": {"update_type": "half"}}, "'full', 'diag', 'offset' or 'none'"),
        ({"fmllr": {"silence_weight": 2}}, "less than or equal to 1"),
        ({"beam": 40}, "retry_beam must be above beam"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        SatOptions(**options)


def test_the_defaults_are_those_of_kaldis_script():
    options = SatOptions()
    assert (options.num_iters, options.max_iter_inc, options.realign_iters) == (
        35,
        25,
        (10, 20, 30),
    )
    assert (options.fmllr_iters, options.power) == ((2, 4, 6, 12), 0.2)
    assert (options.fmllr.update_type, options.fmllr.silence_weight) == ("full", 0)
