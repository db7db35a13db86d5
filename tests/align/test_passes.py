"""Passes over the training data against plain computations over all its frames."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from coloured_speech import PLAIN
from made_speech import DIM, Made
from plain_phones import alignment_to_phones
from plain_statistics import plain_statistics
from small_gmms import slow_posteriors

from mariana_asr.align import utterances
from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.graphs import GraphCompiler
from mariana_asr.align.phone_tables import speech_transition_ids
from mariana_asr.align.training.corpus import TrainingCorpus
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.training.passes import (
    PassModel,
    convert_pass,
    fmllr_pass,
    gmm_pass,
    lda_pass,
    mllt_pass,
    realign,
    tree_pass,
    unadapted_pass,
)
from mariana_asr.align.transforms import fmllr
from mariana_asr.align.transforms.fmllr import FmllrOptions, FmllrStats, estimate_fmllr
from mariana_asr.align.transforms.mllt import MlltStats
from mariana_asr.align.transforms.second_moments import unpack_symmetric
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.align.tree.building import TreeOptions, build_tree
from mariana_asr.align.tree.initial_model import initial_gmms
from mariana_asr.align.tree.phones import PhoneTable
from mariana_asr.align.tree.statistics import ABSENT
from mariana_asr.align.utterances import TransitionScores
from mariana_asr.align.viterbi import BeamOptions, ScaleOptions
from mariana_asr.archives import read_matrix, write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import apply_linear
from mariana_asr.features.splice import splice
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

UNALIGNED = ["s1-05", "s2-38"]
"""Utterances that are given no alignment: passes leave them out."""
FULL = FmllrOptions(min_count=50)


@pytest.fixture(scope="module")
def trained(made: Made, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    options = MonoOptions(num_iters=6, max_iter_inc=4, totgauss=60, transform=PLAIN)
    train_mono(made.data, made.lang, options, folder)
    alignments = read_alignments(folder)
    kept = [(u, tids) for u, tids in alignments.items() if u not in UNALIGNED]
    write_int_vectors(folder / "ali.1.gz", kept)
    return folder


@dataclass
class Packed:
    """The same data packed, and as plain arrays: all aligned frames of the corpus, in order."""

    corpus: TrainingCorpus
    model: PassModel
    speech: np.ndarray
    utterances: list[str]
    feats: list[np.ndarray]
    tids: list[np.ndarray]
    speakers: list[str]

    @property
    def gmm(self) -> DiagGmms:
        return self.model.gmm

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and transition ids of all aligned frames."""
        return np.concatenate(self.feats), np.concatenate(self.tids)

    def pdfs(self) -> np.ndarray:
        return self.model.transitions.pdfs[np.concatenate(self.tids)]


def packed(
    made: Made, trained: Path, folder: Path, *, data: DataDir | None = None, jobs: int = 1
) -> Iterator[Packed]:
    model = read_gmm_model(trained / "final.mdl")
    transitions = TransitionScores.of(
        model.transition_model, ScaleOptions(), silence_phone=made.lang.optional_silence
    )
    alignments = read_alignments(trained)
    names = sorted(alignments)
    with WorkerPool(jobs) as pool, TrainingCorpus(folder, pool) as corpus:
        corpus.pack(data or made.data, FrontEnd.of(made.data, PLAIN), Skipped("test"))
        failed = corpus.load_alignments(trained, model.transition_model)
        assert sorted(failed) == UNALIGNED
        yield Packed(
            corpus,
            PassModel(model.gmm, transitions),
            speech_transition_ids(model.transition_model, made.lang),
            names,
            [read_matrix(made.data.feats[u]).astype(np.float32) for u in names],
            [alignments[u] for u in names],
            [made.data.utt2spk[u] for u in names],
        )


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch) -> None:
    """So that each speaker is in several: there are 14."""
    monkeypatch.setattr(utterances, "FEWEST_IN_CHUNK", 3)


@pytest.fixture
def given(made: Made, trained: Path, tmp_path: Path) -> Iterator[Packed]:
    yield from packed(made, trained, tmp_path)


def with_graphs(given: Packed, made: Made, trained: Path) -> None:
    model = read_gmm_model(trained / "final.mdl")
    given.corpus.set_model(model.transition_model, read_tree(trained / "tree"))
    skipped = Skipped("test")
    given.corpus.compile_graphs(made.lang, skipped)
    assert not skipped


def test_silence_is_no_speech(made, given, trained):
    transitions = read_gmm_model(trained / "final.mdl").transition_model
    silence = {made.lang.phones["SIL"], made.lang.phones["SPN"]}
    expected = [
        transitions.transition_id_to_phone(tid) not in silence
        for tid in range(1, transitions.num_transition_ids + 1)
    ]
    assert given.speech.tolist() == [False, *expected]


def test_statistics_of_the_gaussians_are_those_of_all_frames(given):
    feats, tids = given.frames()
    result = gmm_pass(given.corpus, given.model, None)
    sums, log_like = plain_statistics(given.gmm, feats, given.pdfs())
    np.testing.assert_allclose(result.stats.sums, sums, rtol=1e-4, atol=1e-2)
    assert result.stats.log_like == pytest.approx(log_like, rel=1e-6)
    assert result.stats.frames == len(feats)
    assert result.realigned.aligned == 0
    counts = [int((tids == tid).sum()) for tid in range(len(given.speech))]
    assert result.transition_counts.tolist() == counts


def test_a_realignment_finds_each_utterances_best_path(made, trained, tmp_path):
    # Transcripts that are far from the recording: the path to their ends looks bad for long.
    wrong = {u: "do " * words for words, u in enumerate(made.data.utterances[::4], 4)}
    too_long = made.data.utterances[1]
    text = made.data.text | wrong | {too_long: "bado " * 50}
    data = dataclasses.replace(made.data, text=text)
    for given in packed(made, trained, tmp_path, data=data):
        with_graphs(given, made, trained)
        narrow = BeamOptions(beam=0.5, retry_beam=150)
        realigned = realign(given.corpus, given.model, narrow)
        ours = dict(given.corpus.alignments())
    model = read_gmm_model(trained / "final.mdl")
    compiler = GraphCompiler(model.transition_model, read_tree(trained / "tree"), made.lang)
    expected, retried, failed, log_like = {}, 0, {}, 0.0
    for utterance in made.data.utterances:
        graph = compiler.compile(made.lang.transcript_to_ids(text[utterance]))
        feats = read_matrix(made.data.feats[utterance]).astype(np.float32)
        try:
            path = given.model.transitions.align(graph, feats, given.gmm, narrow)
        except DataError as error:
            failed[utterance] = str(error)
            continue
        expected[utterance] = path.tids
        retried += path.retried
        log_like += path.log_like
    assert 0 < retried < 40
    assert realigned.failed == failed
    assert failed[too_long].startswith("too few frames")
    assert "no path to the end of its transcript within beam 150" in failed.values()
    assert (realigned.aligned, realigned.retried) == (len(expected), retried)
    assert realigned.log_like == pytest.approx(log_like)
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[u], expected[u]) for u in ours)


def test_statistics_after_a_realignment_are_those_of_the_new_alignments(made, given, trained):
    with_graphs(given, made, trained)
    result = gmm_pass(given.corpus, given.model, BeamOptions())
    assert (result.realigned.aligned, result.realigned.failed) == (40, {})
    again = gmm_pass(given.corpus, given.model, None)
    np.testing.assert_array_equal(result.stats.sums, again.stats.sums)
    aligned = dict(given.corpus.alignments())
    assert result.stats.frames == sum(map(len, aligned.values()))
    tids = np.concatenate(list(aligned.values()))
    assert (
        result.transition_counts.tolist() == np.bincount(tids, minlength=len(given.speech)).tolist()
    )


def test_statistics_for_lda_are_those_of_spliced_frames(given):
    classes = np.where(given.speech, given.model.transitions.pdfs, -1)
    stats = lda_pass(given.corpus, classes, left=2, right=1)
    width = 4 * DIM
    counts, sums = np.zeros(classes.max() + 1), np.zeros((classes.max() + 1, width))
    second = np.zeros((width, width))
    for feats, tids in zip(given.feats, given.tids, strict=True):
        for frame, tid in zip(splice(feats, 2, 1).astype(np.float64), tids, strict=True):
            if classes[tid] >= 0:
                counts[classes[tid]] += 1
                sums[classes[tid]] += frame
                second += np.outer(frame, frame)
    assert 0 < counts.sum() < len(np.concatenate(given.tids))
    np.testing.assert_array_equal(stats.counts, counts)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(stats.second, second, rtol=1e-10, atol=1e-8)


def test_statistics_for_mllt_are_those_of_speech(given):
    feats, tids = given.frames()
    kept = given.speech[tids]
    stats = mllt_pass(given.corpus, given.model, given.speech)
    scatter = np.zeros((DIM, DIM, DIM))
    gmm = given.gmm
    for frame, pdf in zip(feats[kept], given.pdfs()[kept], strict=True):
        own = slice(gmm.offsets[pdf], gmm.offsets[pdf + 1])
        offsets = frame.astype(np.float64) - gmm.means[own]
        posteriors = slow_posteriors(gmm, frame, pdf)
        weights = posteriors[:, None] * gmm.inv_vars[own]
        scatter += np.einsum("gd,gi,gj->dij", weights, offsets, offsets)
    assert stats.count == pytest.approx(kept.sum())
    np.testing.assert_allclose(unpack_symmetric(stats.scatter, DIM), scatter, rtol=1e-3, atol=1)


def speakers_together(given: Packed, silence_weight: float) -> dict[str, FmllrStats]:
    """Statistics of each speaker from all their frames at once."""
    stats = {}
    for speaker in sorted(set(given.speakers)):
        own = [place for place, name in enumerate(given.speakers) if name == speaker]
        feats = np.concatenate([given.feats[place] for place in own])
        tids = np.concatenate([given.tids[place] for place in own])
        weights = np.where(given.speech[tids], 1.0, silence_weight)
        stats[speaker] = FmllrStats.empty(DIM)
        stats[speaker].accumulate(given.gmm, feats, given.model.transitions.pdfs[tids], weights)
    return stats


@pytest.mark.parametrize("at_once", [1, 64])
@pytest.mark.parametrize("silence_weight", [0.0, 0.3])
def test_a_speaker_in_several_chunks_gets_the_transform_of_all_their_frames(
    given, monkeypatch, at_once, silence_weight
):
    monkeypatch.setattr(fmllr, "BATCH", at_once)
    options = FULL.model_copy(update={"silence_weight": silence_weight})
    results = fmllr_pass(given.corpus, given.model, given.speech, options)
    stats = speakers_together(given, silence_weight)
    expected = dict(zip(stats, estimate_fmllr(list(stats.values()), options), strict=True))
    assert results.keys() == expected.keys() == {"s0", "s1", "s2", "s3"}
    for speaker, result in results.items():
        assert result.adapted
        assert result.count == pytest.approx(expected[speaker].count)
        assert result.improvement == pytest.approx(expected[speaker].improvement, rel=1e-3)
        np.testing.assert_allclose(result.matrix, expected[speaker].matrix, atol=1e-3)


def test_a_speaker_without_an_alignment_gets_the_unit_transform(given, made, trained, tmp_path):
    alignments = read_alignments(trained)
    others = [(u, tids) for u, tids in alignments.items() if not u.startswith("s2")]
    write_int_vectors(tmp_path / "ali.1.gz", others)
    given.corpus.load_alignments(tmp_path, read_gmm_model(trained / "final.mdl").transition_model)
    results = fmllr_pass(given.corpus, given.model, given.speech, FULL)
    assert [speaker for speaker, result in results.items() if not result.adapted] == ["s2"]
    assert results["s2"].matrix.tolist() == np.eye(DIM, DIM + 1).tolist()
    assert results["s2"].reason == "0 frames, of more than 50 wanted"


def test_the_unadapted_model_gets_the_adapted_ones_posteriors(given):
    random = np.random.default_rng(0)
    transforms = {
        speaker: (np.eye(DIM, DIM + 1) + 0.2 * random.normal(size=(DIM, DIM + 1))).astype(
            np.float32
        )
        for speaker in sorted(set(given.speakers))
    }
    given.corpus.adapt(transforms)
    stats = unadapted_pass(given.corpus, given.model)
    adapted = np.concatenate(
        [apply_linear(f, transforms[s]) for f, s in zip(given.feats, given.speakers, strict=True)]
    )
    sums, _ = plain_statistics(given.gmm, adapted, given.pdfs(), np.concatenate(given.feats))
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-3, atol=1e-1)
    plain = gmm_pass(given.corpus, given.model, None).stats
    np.testing.assert_allclose(stats.occupancy, plain.occupancy, rtol=1e-6)
    assert not np.allclose(stats.sums, plain.sums, rtol=0.1)


@pytest.mark.parametrize(("width", "central"), [(3, 1), (2, 1)])
def test_statistics_for_the_tree_are_those_of_phones_in_context(
    made, given, trained, width, central
):
    transitions = read_gmm_model(trained / "final.mdl").transition_model
    table = PhoneTable.of(transitions, made.lang.context_indep_phones)
    stats, left_out = tree_pass(given.corpus, table, width=width, central=central)
    assert left_out == []
    expected: dict[tuple, np.ndarray] = {}
    for feats, tids in zip(given.feats, given.tids, strict=True):
        phones = alignment_to_phones(tids, transitions)
        names = [0] * central + [phone for phone, _ in phones] + [0] * width
        frame = 0
        for place, (phone, length) in enumerate(phones):
            window = names[place : place + width]
            if phone in made.lang.context_indep_phones:
                window = [phone if at == central else ABSENT for at in range(width)]
            for _ in range(length):
                x = feats[frame].astype(np.float64)
                key = (int(table.pdf_classes[tids[frame]]), *window)
                row = np.concatenate([[1.0], x, x * x])
                expected[key] = expected.get(key, 0) + row
                frame += 1
    assert [tuple(row) for row in stats.contexts.tolist()] == sorted(expected)
    np.testing.assert_allclose(stats.sums, [expected[key] for key in sorted(expected)], rtol=1e-10)


def test_alignments_are_converted_or_lost_one_by_one(made, given, trained, tmp_path):
    model = read_gmm_model(trained / "final.mdl")
    torn = given.utterances[5]
    alignments = dict(zip(given.utterances, given.tids, strict=True))
    alignments[torn] = np.append(alignments[torn][1:], alignments[torn][-1])
    write_int_vectors(tmp_path / "ali.1.gz", alignments.items())
    given.corpus.load_alignments(tmp_path, model.transition_model)
    table = PhoneTable.of(model.transition_model, made.lang.context_indep_phones)
    stats, left_out = tree_pass(given.corpus, table, width=3, central=1)
    assert left_out == [torn]
    topology = made.lang.topology()
    options = TreeOptions(num_leaves=60, thresh=5, cluster_thresh=0)
    tree = build_tree(stats, made.lang.roots, made.lang.phone_sets, topology, options)
    new = initial_gmms(stats, tree, topology)[0].transition_model
    assert tree.num_pdfs > model.transition_model.num_pdfs
    given.corpus.set_model(new, tree)
    failed = convert_pass(given.corpus, trained)
    assert failed == {torn: "the alignment breaks off inside a phone"}
    ours = dict(given.corpus.alignments())
    assert ours.keys() == alignments.keys() - {torn}
    pdfs = transition_id_to_pdf(new)
    for utterance, tids in ours.items():
        phones = alignment_to_phones(alignments[utterance], model.transition_model)
        assert alignment_to_phones(tids, new) == phones
        names = [0, *(phone for phone, _ in phones), 0]
        place = np.repeat(np.arange(len(phones)), [frames for _, frames in phones])
        pdf_classes = table.pdf_classes[alignments[utterance]].tolist()
        expected = [
            tree.compute(names[i : i + 3], pdf_class)[1]
            for i, pdf_class in zip(place, pdf_classes, strict=True)
        ]
        assert pdfs[tids].tolist() == expected


def everything(given: Packed, made: Made, trained: Path) -> list[np.ndarray]:
    """What all passes give, one after the other."""
    with_graphs(given, made, trained)
    corpus, model, speech = given.corpus, given.model, given.speech
    result = gmm_pass(corpus, model, BeamOptions())
    arrays = [result.stats.sums, result.transition_counts]
    arrays += [np.array([result.stats.log_like, result.realigned.log_like])]
    classes = np.where(speech, model.transitions.pdfs, -1)
    lda = lda_pass(corpus, classes, left=2, right=2)
    arrays += [lda.counts, lda.sums, lda.second]
    mllt: MlltStats = mllt_pass(corpus, model, speech)
    arrays += [np.array([mllt.count]), mllt.scatter]
    transforms = {s: r.matrix for s, r in fmllr_pass(corpus, model, speech, FULL).items()}
    arrays += transforms.values()
    corpus.adapt(transforms)
    arrays += [unadapted_pass(corpus, model).sums]
    transition_model = read_gmm_model(trained / "final.mdl").transition_model
    table = PhoneTable.of(transition_model, made.lang.context_indep_phones)
    stats, _ = tree_pass(corpus, table, width=3, central=1)
    arrays += [stats.contexts, stats.sums]
    convert_pass(corpus, trained)
    arrays += dict(corpus.alignments()).values()
    return arrays


def test_two_processes_give_what_one_gives_bit_for_bit(made, trained, tmp_path):
    given = {}
    for jobs in (1, 2):
        (tmp_path / str(jobs)).mkdir()
        for one in packed(made, trained, tmp_path / str(jobs), jobs=jobs):
            given[jobs] = everything(one, made, trained)
    assert len(given[1]) == len(given[2]) > 50
    for one, two in zip(given[1], given[2], strict=True):
        assert one.tobytes() == two.tobytes()
