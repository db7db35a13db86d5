"""Acoustic scores, against densities written out one by one."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.decode.scorers import DnnScorer, GmmScorer, load_scorer
from mariana_asr.features.front_end import FrontEnd, TransformOptions

FRONT_END = FrontEnd(None, 13, TransformOptions(delta_order=2))


@pytest.fixture
def mono(golden: Path, tmp_path: Path) -> Path:
    shutil.copy(golden / "an4_kaldi" / "mono" / "final.mdl", tmp_path)
    FRONT_END.save(tmp_path)
    return tmp_path


def test_gmm_scores_are_log_mixtures_of_gaussians(mono: Path):
    scorer = load_scorer(mono)
    assert isinstance(scorer, GmmScorer)
    frame = np.random.default_rng(1).normal(0, 5, 39).astype(np.float32)
    scores = scorer.log_likelihoods(frame[np.newaxis])[0]
    gmms = read_gmm_model(mono / "final.mdl").gmm
    for pdf in (0, 7, len(scores) - 1):
        density = -math.inf
        for g in range(gmms.offsets[pdf], gmms.offsets[pdf + 1]):
            log = math.log(gmms.weights[g])
            for x, mean, variance in zip(frame, gmms.means[g], gmms.variances[g], strict=True):
                log -= 0.5 * (math.log(2 * math.pi * variance) + (x - mean) ** 2 / variance)
            density = np.logaddexp(density, log)
        assert scores[pdf] == pytest.approx(density, rel=1e-4)


def test_pdfs_of_transition_ids_start_with_the_first_transition_id(mono: Path):
    model = read_gmm_model(mono / "final.mdl").transition_model
    pdfs = load_scorer(mono).pdf_of_transition_id
    assert pdfs[0] == model.transition_id_to_pdf(1)
    assert len(pdfs) == len(transition_id_to_pdf(model)) - 1


def test_a_network_beside_the_transition_model_is_what_scores(mono: Path):
    torch = pytest.importorskip("torch")
    from mariana_asr.nnet.acoustic_model import AcousticModel
    from mariana_asr.nnet.dnn import Dnn, DnnOptions

    num_pdfs = int(load_scorer(mono).pdf_of_transition_id.max()) + 1
    options = DnnOptions(hidden_layers=1, hidden_dim=8, left_context=0, right_context=0)
    network = Dnn(options, 39, num_pdfs)
    priors = np.log(np.full(num_pdfs, 1 / num_pdfs, dtype=np.float32))
    AcousticModel(network, options, FRONT_END, priors).save(mono / "nnet.pt")

    scorer = load_scorer(mono)
    assert isinstance(scorer, DnnScorer)
    assert scorer.front_end == FRONT_END
    frames = np.random.default_rng(2).normal(size=(5, 39)).astype(np.float32)
    with torch.no_grad():
        posteriors = torch.log_softmax(network.eval()(torch.from_numpy(frames)), dim=1).numpy()
    np.testing.assert_allclose(scorer.log_likelihoods(frames), posteriors - priors, atol=1e-5)
    halved = load_scorer(mono, prior_scale=0.5)
    np.testing.assert_allclose(halved.log_likelihoods(frames), posteriors - 0.5 * priors, atol=1e-5)
