"""Triphones on LDA+MLLT features of made-up speech."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from coloured_speech import PLAIN, SPLICED, Coloured, coloured
from made_speech import DIM, phone_accuracy, write_data_dir
from pydantic import ValidationError

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.training.lda_mllt import LdaMlltOptions, train_lda_mllt
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import read_matrix, write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.kaldi_front_end import read_kaldi_front_end
from mariana_asr.features.linear import read_matrix_file
from mariana_asr.features.splice import splice

DIM_KEPT = 6
SHORT = LdaMlltOptions(
    num_leaves=40,
    thresh=20,
    totgauss=50,
    num_iters=7,
    max_iter_inc=5,
    realign_iters=(3, 5),
    dim=DIM_KEPT,
    mllt_iters=(2, 4),
    transform=SPLICED,
)
FILES = (
    "ali.1.gz cmvn_opts final.mat final.mdl final.occs front_end.json log.jsonl num_jobs "
    "phones.txt skipped.txt splice_opts tree"
)


@pytest.fixture(scope="module")
def speech(made, tmp_path_factory) -> Coloured:
    """Speech whose phones' covariances are neither diagonal nor all the same."""
    speech = coloured(made, tmp_path_factory.mktemp("coloured"), colour=1)
    random = np.random.default_rng(4)
    noise = random.normal(size=(5, DIM, DIM)) * 1.5
    feats = {}
    for utterance, phones in speech.truth.items():
        frames = read_matrix(speech.data.feats[utterance])
        extra = np.einsum("tij,tj->ti", noise[phones], random.normal(size=frames.shape))
        feats[utterance] = (frames + extra).astype(np.float32)
    folder = tmp_path_factory.mktemp("noisy")
    data = write_data_dir(folder, feats, speech.data.text, speech.data.utt2spk)
    return dataclasses.replace(speech, data=data)


@pytest.fixture(scope="module")
def mono(speech, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mono")
    options = MonoOptions(num_iters=9, max_iter_inc=6, totgauss=60, transform=PLAIN)
    train_mono(speech.data, speech.lang, options, folder)
    return folder


def train(
    speech: Coloured, mono: Path, folder: Path, data: DataDir | None = None, **options
) -> Path:
    jobs = options.pop("jobs", 1)
    changed = SHORT.model_copy(update=options)
    train_lda_mllt(data or speech.data, speech.lang, mono, changed, folder, jobs=jobs)
    return folder


@pytest.fixture(scope="module")
def trained(speech, mono, tmp_path_factory) -> Path:
    return train(speech, mono, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def without_mllt(speech, mono, tmp_path_factory) -> Path:
    return train(speech, mono, tmp_path_factory.mktemp("plain"), mllt_iters=())


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_writes_a_whole_system(speech, trained):
    assert sorted(path.name for path in trained.iterdir()) == FILES.split()
    model = read_gmm_model(trained / "final.mdl")
    alignments = read_alignments(trained)
    assert alignments.keys() == speech.truth.keys()
    assert phone_accuracy(alignments, speech, model.transition_model) > 0.94
    front_end = FrontEnd.load(trained)
    assert front_end.transform == SPLICED
    assert front_end.dim == model.gmm.dim == DIM_KEPT
    kaldis = read_kaldi_front_end(trained, model.gmm.dim)
    assert kaldis.transform.splice_left == kaldis.transform.splice_right == 2
    assert np.array_equal(kaldis.matrix, front_end.matrix)


def test_the_log_tells_where_mllt_was_estimated(trained, without_mllt):
    log = log_of(trained)
    assert [entry["iteration"] for entry in log] == [1, 2, 3, 4, 5, 6]
    gains = {e["iteration"]: e["mllt_improvement_per_frame"] for e in log if len(e) > 8}
    assert list(gains) == [2, 4]
    assert gains[2] > 0.02
    assert 0 < gains[4] < gains[2]
    assert not any("mllt_improvement_per_frame" in entry for entry in log_of(without_mllt))


def plain_lda(speech: Coloured, mono: Path) -> np.ndarray:
    """Directions by generalised eigenvalues, with unit covariance within classes."""
    transitions = read_gmm_model(mono / "final.mdl").transition_model
    pdfs = transition_id_to_pdf(transitions)
    silence = {speech.lang.phones["SIL"], speech.lang.phones["SPN"]}
    frames: dict[int, list[np.ndarray]] = {}
    for utterance, tids in read_alignments(mono).items():
        feats = splice(read_matrix(speech.data.feats[utterance]).astype(np.float64), 2, 2)
        for tid, frame in zip(tids.tolist(), feats, strict=True):
            if transitions.transition_id_to_phone(tid) not in silence:
                frames.setdefault(int(pdfs[tid]), []).append(frame)
    everything = np.concatenate([np.array(own) for own in frames.values()])
    total = np.cov(everything.T, bias=True)
    within = sum(np.cov(np.array(own).T, bias=True) * len(own) for own in frames.values())
    within = within / len(everything)
    values, vectors = np.linalg.eig(np.linalg.solve(within, total - within))
    best = vectors[:, np.argsort(-values.real)[:DIM_KEPT]].real.T
    return best / np.sqrt(np.einsum("ei,ij,ej->e", best, within, best))[:, None]


def test_the_projection_is_lda_of_the_sources_pdfs_without_silence(speech, mono, without_mllt):
    ours = read_matrix_file(without_mllt / "final.mat")
    expected = plain_lda(speech, mono)
    assert ours.shape == (DIM_KEPT, 5 * DIM)
    signs = np.sign((ours * expected).sum(axis=1))[:, None]
    np.testing.assert_allclose(ours, signs * expected, atol=5e-3 * np.abs(expected).max())


def test_mllt_is_composed_with_lda_and_pays(trained, without_mllt):
    lda = read_matrix_file(without_mllt / "final.mat").astype(np.float64)
    composed = read_matrix_file(trained / "final.mat").astype(np.float64)
    mllt = composed @ np.linalg.pinv(lda)
    np.testing.assert_allclose(mllt @ lda, composed, atol=1e-4)
    assert np.abs(mllt - np.eye(DIM_KEPT)).max() > 0.1
    # Likelihoods in the transformed space lack the logarithm of the determinant.
    plain, adapted = (log_of(f)[-1]["log_likelihood_per_frame"] for f in (without_mllt, trained))
    assert adapted + np.linalg.slogdet(mllt)[1] > plain + 0.02


def test_the_means_follow_the_features_into_the_new_space(speech, mono, tmp_path):
    """So the likelihood with the determinant goes on from where it was, or a little above."""
    options = {"num_iters": 3, "realign_iters": ()}
    plain = train(speech, mono, tmp_path / "plain", mllt_iters=(), **options)
    moved = train(speech, mono, tmp_path / "moved", mllt_iters=(2,), **options)
    lda, composed = (read_matrix_file(folder / "final.mat") for folder in (plain, moved))
    log_determinant = np.linalg.slogdet(composed @ np.linalg.pinv(lda))[1]
    before, after = (log_of(folder)[1]["log_likelihood_per_frame"] for folder in (plain, moved))
    assert before == log_of(plain)[0]["log_likelihood_per_frame"]
    assert before < after + log_determinant < before + 0.1


def test_the_front_end_gives_the_features_that_the_model_was_trained_on(speech, trained):
    """Their likelihoods, on the alignments beside the model, go on from the last iteration's."""
    model, front_end = read_gmm_model(trained / "final.mdl"), FrontEnd.load(trained)
    pdfs = transition_id_to_pdf(model.transition_model)
    alignments = read_alignments(trained)
    total = frames = 0
    for utterance, feats in front_end.iterate(speech.data):
        log_likes = model.gmm.log_likelihoods(feats)
        tids = alignments[utterance]
        total += log_likes[np.arange(len(tids)), pdfs[tids]].sum(dtype=np.float64)
        frames += len(tids)
        whole = splice(read_matrix(speech.data.feats[utterance]).astype(np.float32), 2, 2)
        np.testing.assert_allclose(feats, whole @ front_end.matrix.T, atol=1e-4)
    last = log_of(trained)[-1]["log_likelihood_per_frame"]
    assert last < total / frames < last + 0.2


def test_the_result_does_not_depend_on_the_number_of_processes(speech, mono, tmp_path):
    for jobs in (1, 2):
        train(speech, mono, tmp_path / str(jobs), jobs=jobs, num_iters=4)
    for name in ("final.mdl", "final.mat", "tree"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_bad_utterances_never_end_the_run(speech, mono, tmp_path, caplog):
    few, empty, longer, *_ = speech.data.utterances
    text = speech.data.text | {few: "bado " * 40, empty: ""}
    alignments = read_alignments(mono)
    alignments[longer] = np.append(alignments[longer], 1)
    for name in ("final.mdl", "phones.txt"):
        (tmp_path / name).write_bytes((mono / name).read_bytes())
    write_int_vectors(tmp_path / "ali.1.gz", alignments.items())
    data = dataclasses.replace(speech.data, text=text)
    with caplog.at_level(logging.WARNING):
        folder = train(speech, tmp_path, tmp_path / "out", data, num_iters=4)
    lines = (folder / "skipped.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [few, empty]
    assert "too few frames" in lines[0]
    assert "38 done, 2 skipped" in caplog.text
    frames = {utterance: len(truth) for utterance, truth in speech.truth.items()}
    assert log_of(folder)[0]["frames"] == sum(frames.values()) - frames[empty] - frames[longer]


def test_without_speech_there_is_no_lda(speech, mono, tmp_path):
    for name in ("final.mdl", "phones.txt"):
        (tmp_path / name).write_bytes((mono / name).read_bytes())
    silence = {u: np.full_like(t, t[0]) for u, t in read_alignments(mono).items()}
    write_int_vectors(tmp_path / "ali.1.gz", silence.items())
    with pytest.raises(StageError, match=r"LDA without any frames. Check the alignments"):
        train(speech, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("final.*"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(("dim", "left"), [(21, 2), (22, 8)])
def test_more_dimensions_than_there_are_are_refused(speech, mono, tmp_path, dim, left):
    transform = PLAIN.model_copy(update={"splice_left": left, "splice_right": 2})
    with pytest.raises(StageError, match=f"LDA to {dim} dimensions of features of .*, with 22 cl"):
        train(speech, mono, tmp_path / "out", dim=dim, transform=transform)
    assert not list((tmp_path / "out").glob("final.*"))


def test_a_system_without_splicing_is_trained_too(speech, mono, tmp_path):
    folder = train(speech, mono, tmp_path / "out", dim=3, transform=PLAIN, num_iters=4)
    assert read_matrix_file(folder / "final.mat").shape == (3, DIM)
    assert FrontEnd.load(folder).dim == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": TransformOptions(delta_order=2)}, "LDA takes spliced features, not deltas"),
        ({"dim": 0}, "greater than or equal to 1"),
        ({"beam": 40}, "retry_beam must be above beam"),
        ({"realign_iters": (0,)}, "there is no model to realign with yet"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        LdaMlltOptions(**options)


def test_the_defaults_are_those_of_kaldis_script():
    options = LdaMlltOptions()
    assert (options.dim, options.mllt_iters) == (40, (2, 4, 6, 12))
    assert (options.num_iters, options.max_iter_inc, options.realign_iters) == (
        35,
        25,
        (10, 20, 30),
    )
    assert (options.transform.splice_left, options.transform.splice_right) == (4, 4)
    assert options.power == 0.25
