"""The tree that Kaldi built on AN4, from Kaldi's alignments and features of our own."""

import re
from collections import Counter

import numpy as np
import pytest
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import (
    read_gmm_model,
    read_transition_model,
    transition_id_to_pdf,
)
from mariana_asr.align.formats.tree_io import read_tree, tree_to_bytes
from mariana_asr.align.training.conversion import AlignmentConverter
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.align.tree.building import TreeOptions, build_tree
from mariana_asr.align.tree.clustering import objective
from mariana_asr.align.tree.initial_model import initial_gmms, pdfs_of_contexts
from mariana_asr.align.tree.phones import PhoneTable
from mariana_asr.align.tree.questions import cluster_phones, read_questions
from mariana_asr.align.tree.statistics import TreeStats
from mariana_asr.corpus.audio import read_audio
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.mfcc import MfccOptions, compute_mfcc
from mariana_asr.lang.langdir import read_lang


@pytest.fixture(scope="module")
def kaldi(golden):
    return golden / "an4_kaldi"


@pytest.fixture(scope="module")
def lang(kaldi):
    return read_lang(kaldi / "lang")


@pytest.fixture(scope="module")
def alignments(kaldi):
    return read_alignments(kaldi / "mono/train_ali.ark")


@pytest.fixture(scope="module")
def feats(corpora):
    """MFCC of the training set, with the mean of each speaker taken off, and deltas."""
    options = MfccOptions(use_energy=False, dither=0.0, sample_frequency=16000)
    speakers: dict[str, dict[str, np.ndarray]] = {}
    for place in (corpora / "an4/etc/an4_train.fileids").read_text().split():
        name, speaker, take = place.rsplit("/", 1)[1].split("-")
        (audio,) = (corpora / "an4/wav").glob(place + ".*")
        own = speakers.setdefault(speaker, {})
        own[f"{speaker}-{name}-{take}"] = compute_mfcc(read_audio(str(audio))[0], options)
    feats = {}
    for own in speakers.values():
        mean = np.concatenate(list(own.values())).mean(axis=0, dtype=np.float64)
        feats |= {u: add_deltas((mfcc - mean).astype(np.float32), 2) for u, mfcc in own.items()}
    return feats


@pytest.fixture(scope="module")
def stats(kaldi, lang, alignments, feats):
    model = read_transition_model(kaldi / "mono/final.mdl")
    table = PhoneTable.of(model, lang.context_indep_phones)
    stats = TreeStats.empty(39)
    utterances = sorted(alignments)
    for chunk in (utterances[:500], utterances[500:]):
        tids = [alignments[u] for u in chunk]
        starts = np.cumsum([0] + [len(own) for own in tids])[:-1]
        own_feats = np.concatenate([feats[u] for u in chunk])
        assert stats.accumulate(own_feats, np.concatenate(tids), starts, table) == []
    assert stats.frames == sum(map(len, alignments.values()))
    return stats


@pytest.fixture(scope="module")
def ours(kaldi, lang, stats):
    questions = cluster_phones(stats, lang.phone_sets)
    questions += read_questions(kaldi / "lang/phones/extra_questions.int")
    return build_tree(stats, lang.roots, questions, lang.topology(), TreeOptions(num_leaves=1800))


def objective_under(tree, stats) -> float:
    """Log-likelihood a frame with one Gaussian a pdf."""
    sums = np.zeros((tree.num_pdfs, stats.sums.shape[1]))
    np.add.at(sums, pdfs_of_contexts(stats, tree), stats.sums)
    return float(objective(sums).sum(dtype=np.float64)) / stats.frames


def test_the_tree_is_kaldis_but_for_what_dither_and_a_realignment_change(kaldi, stats, ours):
    theirs = read_tree(kaldi / "tri1/tree")
    assert ours.num_pdfs % 8 == theirs.num_pdfs % 8 == 0
    assert abs(ours.num_pdfs - theirs.num_pdfs) <= 16
    # The same gain over one Gaussian for all frames, to a thousandth.
    alone = float(objective(stats.sums.sum(axis=0, keepdims=True))[0]) / stats.frames
    gain, kaldis_gain = (objective_under(tree, stats) - alone for tree in (ours, theirs))
    assert kaldis_gain > 10
    assert gain == pytest.approx(kaldis_gain, rel=2e-3)
    # Nearly all frames are in leaves that hold the same contexts.
    joint = np.zeros((ours.num_pdfs, theirs.num_pdfs))
    pairs = pdfs_of_contexts(stats, ours), pdfs_of_contexts(stats, theirs)
    np.add.at(joint, pairs, stats.sums[:, 0])
    assert joint.max(axis=1).sum() / stats.frames > 0.98
    assert joint.max(axis=0).sum() / stats.frames > 0.98
    # Nearly all nodes ask the same question. (A question is written as SE, its key and values; the
    # leaves below it, with their numbers, are left out.)
    asked, kaldis = (
        Counter(
            re.split(rb"SE ", re.sub(rb"CE \x04.{4}", b"", tree_to_bytes(tree), flags=re.DOTALL))
        )
        for tree in (ours, theirs)
    )
    assert kaldis.total() > 500
    assert (asked & kaldis).total() > 0.95 * kaldis.total()


def test_the_first_model_is_kaldis_single_gaussians(kaldi, lang, stats):
    """Kaldi's occupancies at the end of tri1 are near those that the tree began with."""
    theirs = read_tree(kaldi / "tri1/tree")
    model, occupancy = initial_gmms(stats, theirs, lang.topology())
    trained = read_gmm_model(kaldi / "tri1/final.mdl")
    assert model.transition_model.num_transition_ids == (
        trained.transition_model.num_transition_ids
    )
    assert occupancy.sum() == stats.frames
    weights = trained.gmm.weights.astype(np.float64)[:, None]
    means = np.add.reduceat(weights * trained.gmm.means, trained.gmm.offsets[:-1])
    kept = occupancy > 200
    distance = np.abs(means - model.gmm.means)[kept] / np.sqrt(model.gmm.variances[kept])
    assert np.median(distance) < 0.15


def test_alignments_are_converted_to_kaldis_tree(kaldi, alignments):
    old = read_transition_model(kaldi / "mono/final.mdl")
    new = read_transition_model(kaldi / "tri1/final.mdl")
    tree = read_tree(kaldi / "tri1/tree")
    converter = AlignmentConverter(old, new, tree)
    converted = {u: converter.convert(tids) for u, tids in alignments.items()}
    table, new_table = PhoneTable.of(old), PhoneTable.of(new)
    pdfs = transition_id_to_pdf(new)
    for utterance in sorted(alignments)[::30]:
        tids, ours = alignments[utterance], converted[utterance]
        pdf_classes = table.pdf_classes[tids]
        assert new_table.phones[ours].tolist() == table.phones[tids].tolist()
        assert new_table.hmm_states[ours].tolist() == table.hmm_states[tids].tolist()
        assert new_table.transitions[ours].tolist() == table.transitions[tids].tolist()
        cut = alignment_to_phones(tids, old)
        window = [0, *(phone for phone, _ in cut), 0]
        run = np.repeat(np.arange(len(cut)), [frames for _, frames in cut])
        for frame in range(len(tids)):
            context = window[run[frame] : run[frame] + 3]
            expected = tree.compute(context, int(pdf_classes[frame]))
            assert expected == (True, pdfs[ours[frame]])
    # Where Kaldi's later alignment has the same phone and state, it has the same pdf.
    later = read_alignments(kaldi / "tri1/train_ali.ark")
    ours, theirs = (np.concatenate([a[u] for u in alignments]) for a in (converted, later))
    same_phone = new_table.phones[ours] == new_table.phones[theirs]
    same = same_phone & (new_table.hmm_states[ours] == new_table.hmm_states[theirs])
    assert same.mean() > 0.7
    assert (pdfs[ours] == pdfs[theirs])[same].mean() > 0.97
