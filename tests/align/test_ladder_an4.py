"""Monophones to speaker-adapted triphones on some of AN4, and on top of what Kaldi trained."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import read_gmm_model, read_transition_model
from mariana_asr.align.training.lda_mllt import LdaMlltOptions, train_lda_mllt
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.training.sat import SatOptions, train_sat
from mariana_asr.align.training.triphone import DeltasOptions, train_deltas
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import read_matrix_file, read_speaker_transforms
from mariana_asr.lang.langdir import read_lang

RUNGS = ["mono", "tri1", "tri2", "tri3"]
SIZES = {
    "num_leaves": 150,
    "totgauss": 400,
    "num_iters": 7,
    "max_iter_inc": 5,
    "realign_iters": (3, 5),
}


@pytest.fixture(scope="module")
def ladder(an4: DataDir, golden: Path, tmp_path_factory) -> Path:
    folder, lang = tmp_path_factory.mktemp("ladder"), read_lang(golden / "an4_kaldi/lang")
    mono = MonoOptions(num_iters=11, max_iter_inc=8, totgauss=250, realign_iters=(1, 2, 3, 4, 6, 8))
    train_mono(an4, lang, mono, folder / "mono")
    train_deltas(an4, lang, folder / "mono", DeltasOptions(**SIZES), folder / "tri1")
    lda_mllt = LdaMlltOptions(**SIZES, mllt_iters=(2, 4))
    train_lda_mllt(an4, lang, folder / "tri1", lda_mllt, folder / "tri2")
    sat = SatOptions(**SIZES, fmllr_iters=(2, 4))
    train_sat(an4, lang, folder / "tri2", sat, folder / "tri3")
    return folder


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def likelihoods(folder: Path) -> list[float]:
    return [entry["log_likelihood_per_frame"] for entry in log_of(folder)]


def phones_of_frames(folder: Path, model_dir: Path) -> dict[str, np.ndarray]:
    transitions = read_transition_model(model_dir / "final.mdl")
    return {
        utterance: np.repeat(*np.array(alignment_to_phones(tids, transitions)).T)
        for utterance, tids in read_alignments(folder).items()
    }


def agreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Part of the frames that have the same phone."""
    return float(np.concatenate([ours[u] == theirs[u] for u in ours]).mean())


def test_likelihoods_rise_on_every_rung_and_from_one_to_the_next(ladder):
    for rung in RUNGS:
        given = likelihoods(ladder / rung)
        # Estimating MLLT or fMLLR changes the space in which likelihoods are measured.
        moved = {i for i, entry in enumerate(log_of(ladder / rung)) if len(entry) > 8}
        steps = [b - a for i, (a, b) in enumerate(pairwise(given), 1) if i not in moved]
        assert all(step > -1e-3 for step in steps)
        assert given[-1] > given[0] + 1
    last = {rung: likelihoods(ladder / rung)[-1] for rung in RUNGS}
    # These have the same features, and about as many Gaussians to begin with.
    assert last["tri1"] > last["mono"]
    assert last["tri3"] > last["tri2"]


def test_the_ladder_leads_to_the_phones_that_kaldi_found(ladder, an4, golden):
    tri3 = golden / "an4_kaldi/tri3"
    theirs = phones_of_frames(tri3, tri3)
    agreements = []
    for rung in RUNGS:
        ours = phones_of_frames(ladder / rung, ladder / rung)
        assert sorted(ours) == an4.utterances
        agreements.append(agreement(ours, theirs))
    # With a sixth of Kaldi's training data and a twentieth of its Gaussians.
    assert agreements[0] > 0.72
    assert agreements[2] > agreements[0] + 0.01
    assert agreements[3] > max(agreements[1], 0.77)


def test_every_rung_has_the_sizes_that_were_asked_for(ladder):
    for rung, dim in {"tri1": 39, "tri2": 40, "tri3": 40}.items():
        gmm = read_gmm_model(ladder / rung / "final.mdl").gmm
        assert gmm.num_pdfs <= 150
        assert gmm.num_pdfs % 8 == 0
        assert 390 <= gmm.num_gaussians <= 400
        assert gmm.dim == FrontEnd.load(ladder / rung).dim == dim
    assert FrontEnd.load(ladder / "tri3") == FrontEnd.load(ladder / "tri2")


@pytest.fixture(scope="module")
def some(an4: DataDir) -> DataDir:
    """All utterances of the first five speakers."""
    speakers = sorted(set(an4.utt2spk.values()))[:5]
    return an4.subset([u for u in an4.utterances if an4.utt2spk[u] in speakers])


def test_training_goes_on_from_kaldis_adapted_model(some, golden, tmp_path):
    tri3 = golden / "an4_kaldi/tri3"
    lang = read_lang(golden / "an4_kaldi/lang")
    options = SatOptions(
        num_leaves=120,
        totgauss=300,
        num_iters=6,
        max_iter_inc=4,
        realign_iters=(3,),
        fmllr_iters=(2,),
    )
    train_sat(some, lang, tri3, options, tmp_path)
    # The tree is built on the features that Kaldi's transforms give, after its final.mat.
    np.testing.assert_array_equal(
        read_matrix_file(tmp_path / "final.mat"), read_matrix_file(tri3 / "final.mat")
    )
    theirs, ours = read_speaker_transforms(tri3), read_speaker_transforms(tmp_path)
    assert ours.keys() == set(some.utt2spk.values())
    for speaker, matrix in ours.items():
        moved = np.abs(matrix - theirs[speaker])[:, :-1].max()
        assert 0.001 < moved < 0.6
    log = log_of(tmp_path)
    assert log[1]["adapted_speakers"] == 5
    assert log[1]["fmllr_improvement_per_frame"] > 0
    assert likelihoods(tmp_path)[-1] > likelihoods(tmp_path)[0] + 1
    assert (tmp_path / "unadapted.txt").read_text() == ""
    kaldis = phones_of_frames(tri3, tri3)
    assert agreement(phones_of_frames(tmp_path, tmp_path), kaldis) > 0.85


def test_kaldis_transforms_and_alignments_are_taken_over_as_they_are(some, golden, tmp_path):
    tri3 = golden / "an4_kaldi/tri3"
    options = SatOptions(num_leaves=120, totgauss=150, num_iters=2, fmllr_iters=())
    train_sat(some, read_lang(golden / "an4_kaldi/lang"), tri3, options, tmp_path)
    theirs, ours = read_speaker_transforms(tri3), read_speaker_transforms(tmp_path)
    assert all(np.array_equal(ours[speaker], theirs[speaker]) for speaker in ours)
    alignments = read_alignments(tri3)
    frames = sum(len(alignments[utterance]) for utterance in some.utterances)
    assert [entry["frames"] for entry in log_of(tmp_path)] == [frames]
