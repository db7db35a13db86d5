"""Forced alignment against Kaldi's alignments, Kaldi's own search, and known boundaries."""

import dataclasses
import gzip
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from made_speech import PHONES, phone_accuracy
from plain_phones import alignment_to_phones

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.align.formats.model_io import read_gmm_model, read_tree
from mariana_asr.align.graphs import GraphCompiler, read_graphs, write_graphs
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.transition_ids import alignment_to_pdfs, read_alignments
from mariana_asr.align.utterances import GmmAcousticModel, TransitionScores
from mariana_asr.align.viterbi import BeamOptions, ScaleOptions
from mariana_asr.archives import write_int_vectors
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.kaldi import kaldi_hmm_gmm as khg
from mariana_asr.lang.fst_arrays import read_fst
from mariana_asr.lang.langdir import read_lang

DELTAS = TransformOptions(delta_order=2)


@pytest.fixture(scope="module")
def kaldi(golden):
    """Kaldi's monophone model and lang directory of AN4."""
    folder = golden / "an4_kaldi"
    return read_gmm_model(folder / "mono/final.mdl"), read_lang(folder / "lang"), folder


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    options = MonoOptions(
        num_iters=12, totgauss=60, max_iter_inc=8, transform=TransformOptions(cmvn="none")
    )
    train_mono(made.data, made.lang, options, folder)
    return folder


def test_kaldis_model_gives_kaldis_alignments(kaldi, an4, tmp_path):
    model, lang, folder = kaldi
    acoustic_model = GmmAcousticModel(model.gmm, FrontEnd.of(an4, DELTAS))
    summary = align(an4, lang, folder / "mono", tmp_path, acoustic_model=acoustic_model, jobs=2)
    assert (summary.utterances, summary.skipped) == (len(an4.utt2spk), 0)
    expected = read_alignments(folder / "mono/train_ali.ark")
    ours = read_alignments(tmp_path)
    same = np.concatenate(
        [
            alignment_to_pdfs(ours[u], model.transition_model)
            == alignment_to_pdfs(expected[u], model.transition_model)
            for u in an4.utterances
        ]
    )
    # Kaldi's features had dither, and its last alignment was two iterations before the last model.
    assert len(same) == summary.frames
    assert same.mean() >= 0.99


@pytest.mark.parametrize("scales", [ScaleOptions(), ScaleOptions(self_loop_scale=1.0)])
def test_scores_of_transitions_equal_kaldis_graph_with_probabilities(kaldi, an4, scales):
    """The reference puts them into the graph and scores with Kaldi's own GMM classes."""
    model, lang, folder = kaldi
    tree = read_tree(folder / "mono/tree")
    compiler = GraphCompiler(model.transition_model, tree, lang)
    transitions = TransitionScores.of(
        model.transition_model, scales, silence_phone=lang.optional_silence
    )
    plain = khg.TrainingGraphCompiler(
        model.transition_model,
        tree,
        read_fst(lang.path / "L.fst"),
        lang.disambig_phones,
        khg.TrainingGraphCompilerOptions(transition_scale=0.0, self_loop_scale=0.0),
    )
    amgmm = khg.AmDiagGmm()
    for start, end in zip(model.gmm.offsets[:-1], model.gmm.offsets[1:], strict=True):
        pdf = khg.DiagGmm(nmix=int(end - start), dim=model.gmm.dim)
        pdf.set_weights(model.gmm.weights[start:end])
        pdf.set_invvars_and_means(
            model.gmm.inv_vars[start:end], model.gmm.means[start:end].astype(np.float32)
        )
        pdf.compute_gconsts()
        amgmm.add_pdf(pdf)
    for utterance in an4.utterances[:6]:
        feats = FrontEnd.of(an4, DELTAS).read(an4, utterance)
        words = lang.transcript_to_ids(an4.text[utterance])
        path = transitions.align(compiler.compile(words), feats, model.gmm, BeamOptions())
        fst = plain.compile_graph_from_text(words)
        khg.add_transition_probs(
            trans_model=model.transition_model,
            transition_scale=scales.transition_scale,
            self_loop_scale=scales.self_loop_scale,
            fst=fst,
        )
        decodable = khg.DecodableAmDiagGmmScaled(
            amgmm, model.transition_model, feats, scales.acoustic_scale
        )
        *_, log_like, frames, tids, _ = khg.align_utterance_wrapper(
            khg.AlignConfig(10.0, 40.0, False), utterance, scales.acoustic_scale, fst, decodable,
            0, 0, 0, 0.0, 0,
        )  # fmt: skip
        assert frames == len(feats)
        assert path.log_like == pytest.approx(log_like, rel=1e-4)
        assert path.tids.tolist() == tids


def test_a_trained_model_aligns_with_the_front_end_beside_it(made, trained, tmp_path):
    summary = align(made.data, made.lang, trained, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "alignment.jsonl", "ali.1.gz", "cmvn_opts", "delta_opts", "final.mdl", "front_end.json",
        "num_jobs", "phones.ctm", "phones.txt", "scores.txt", "skipped.txt", "suspects.json",
        "suspects.txt", "tree", "words.ctm",
    }  # fmt: skip
    model = read_gmm_model(trained / "final.mdl")
    assert phone_accuracy(read_alignments(tmp_path), made, model.transition_model) > 0.95
    scores = dict(line.split() for line in (tmp_path / "scores.txt").read_text().splitlines())
    assert scores.keys() == made.truth.keys()
    weighted = sum(float(scores[u]) * len(made.truth[u]) for u in scores) / summary.frames
    assert weighted == pytest.approx(summary.log_likelihood_per_frame, abs=1e-3)


def test_any_model_with_log_likelihoods_can_align(made, trained, tmp_path):
    transitions = read_gmm_model(trained / "final.mdl").transition_model
    log_likes = {}

    @dataclass
    class Oracle:
        """Knows the truth: frames are told apart by their values."""

        front_end: FrontEnd

        def log_likelihoods(self, feats):
            return log_likes[feats.tobytes()]

    front_end = FrontEnd.of(made.data, TransformOptions(cmvn="none"))
    phone_of_pdf = {
        transitions.transition_id_to_pdf(tid): transitions.transition_id_to_phone(tid)
        for tid in range(1, transitions.num_transition_ids + 1)
    }
    for utterance, truth in made.truth.items():
        feats = front_end.read(made.data, utterance)
        ids = np.array([made.lang.phones[phone] for phone in PHONES])[truth]
        own = np.array([phone_of_pdf[pdf] for pdf in range(transitions.num_pdfs)])
        log_likes[feats.tobytes()] = np.where(ids[:, None] == own, 0, -300).astype(np.float32)
    align(made.data, made.lang, trained, tmp_path, acoustic_model=Oracle(front_end))
    assert phone_accuracy(read_alignments(tmp_path), made, transitions) == 1.0


def test_boosted_silence_takes_more_frames(made, trained, tmp_path):
    transitions = read_gmm_model(trained / "final.mdl").transition_model
    frames = []
    for boost in (1e-20, 1.0, 1e20):
        options = AlignOptions(boost_silence=boost, beam=1000, retry_beam=0)
        align(made.data, made.lang, trained, tmp_path, options)
        phones = [
            (phone, count)
            for tids in read_alignments(tmp_path).values()
            for phone, count in alignment_to_phones(tids, transitions)
        ]
        frames.append(sum(n for phone, n in phones if phone == made.lang.optional_silence))
    assert frames[0] < frames[1] < frames[2]


def test_utterances_that_cannot_be_aligned_are_listed_with_the_reason(made, trained, tmp_path):
    first, second, third = made.data.utterances[:3]
    text = made.data.text | {first: "bado " * 50, second: "", third: "do " * 8}
    data = dataclasses.replace(made.data, text=text)
    options = AlignOptions(beam=0.5, retry_beam=0)
    summary = align(data, made.lang, trained, tmp_path, options)
    reasons = (tmp_path / "skipped.txt").read_text()
    assert f"{first} too few frames: {len(made.truth[first])}, but its transcript needs 600" in (
        reasons
    )
    assert f"{second} empty transcript" in reasons
    assert "no path to the end of its transcript within beam 0.5" in reasons
    assert summary.skipped == len(reasons.splitlines())
    assert summary.utterances + summary.skipped == 40


def test_a_retry_with_a_wider_beam_is_counted(made, trained, tmp_path):
    # A transcript that is far from the recording: the path to its end looks bad for long.
    text = made.data.text | {made.data.utterances[2]: "do " * 8}
    data = dataclasses.replace(made.data, text=text)
    options = AlignOptions(beam=0.5, retry_beam=1000)
    summary = align(data, made.lang, trained, tmp_path, options)
    assert summary.retried > 0
    assert summary.skipped == 0


def test_alignment_without_a_usable_utterance_fails(made, trained, tmp_path):
    data = dataclasses.replace(made.data, text={})
    with pytest.raises(StageError, match="none of 40"):
        align(data, made.lang, trained, tmp_path)
    assert not (tmp_path / "ali.1.gz").exists()


def test_a_model_with_other_phones_is_refused(made, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "model")
    table = (trained / "phones.txt").read_text().replace("A 3", "AA 3")
    assert "AA 3" in table
    (tmp_path / "model/phones.txt").write_text(table)
    with pytest.raises(FormatError, match=r"other phones than .*: A, AA"):
        align(made.data, made.lang, tmp_path / "model", tmp_path / "ali")


def test_features_of_another_dimension_are_refused(made, trained, tmp_path, an4):
    with pytest.raises(FormatError, match="13 dimensions"):
        align(an4, made.lang, trained, tmp_path)


def test_files_of_different_models_are_refused(made, trained, golden, tmp_path):
    shutil.copytree(trained, tmp_path / "model")
    shutil.copy(golden / "an4_kaldi/mono/tree", tmp_path / "model/tree")
    with pytest.raises(FormatError, match="the tree has 104 pdfs, the transition model 22"):
        align(made.data, made.lang, tmp_path / "model", tmp_path / "ali")
    FrontEnd(None, 4, DELTAS).save(tmp_path / "model")
    with pytest.raises(FormatError, match=r"GMMs have 4 dimensions, their front end gives 12"):
        align(made.data, made.lang, tmp_path / "model", tmp_path / "ali")


def test_a_missing_model_is_a_clear_error(made, tmp_path):
    with pytest.raises(FormatError, match=r"final\.mdl: no such file"):
        align(made.data, made.lang, tmp_path, tmp_path / "ali")


def test_alignments_are_read_from_several_archives(tmp_path):
    write_int_vectors(tmp_path / "ali.1.gz", [("a", np.array([1, 2]))])
    write_int_vectors(tmp_path / "ali.2.gz", [("b", np.array([3]))])
    alignments = read_alignments(tmp_path)
    assert {u: tids.tolist() for u, tids in alignments.items()} == {"a": [1, 2], "b": [3]}
    write_int_vectors(tmp_path / "ali.3.gz", [("b", np.array([3]))])
    with pytest.raises(FormatError, match="utterance b is there twice"):
        read_alignments(tmp_path)
    with pytest.raises(FormatError, match=r"none of ali"):
        read_alignments(tmp_path.parent)
    (tmp_path / "ali.3.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match=r"ali\.3\.gz"):
        read_alignments(tmp_path)


def test_numbers_that_are_no_transition_ids_are_refused(kaldi):
    transitions = kaldi[0].transition_model
    for bad in (0, -1, transitions.num_transition_ids + 1):
        with pytest.raises(FormatError, match=f"{bad} is no transition id"):
            alignment_to_pdfs(np.array([1, bad]), transitions)


def test_pdfs_equal_those_kaldi_wrote(kaldi):
    model, _, folder = kaldi
    alignments = read_alignments(folder / "mono/train_ali.ark")
    with gzip.open(folder / "mono/train_pdf.txt.gz", "rt") as file:
        for line in file:
            utterance, *pdfs = line.split()
            ours = alignment_to_pdfs(alignments[utterance], model.transition_model)
            assert ours.tolist() == list(map(int, pdfs))


def test_phones_are_cut_as_kaldi_cuts_them(kaldi):
    """The loop of Kaldi's SplitToPhones, for self-loops that follow the way out of their state."""
    model, _, folder = kaldi
    transitions = model.transition_model
    alignments = read_alignments(folder / "mono/train_ali.ark")
    for utterance in list(alignments)[::25]:
        tids = alignments[utterance].tolist()
        expected, start, frame = [], 0, 0
        while frame < len(tids):
            if transitions.is_final(tids[frame]):
                while frame + 1 < len(tids) and transitions.is_self_loop(tids[frame + 1]):
                    frame += 1
                phone = transitions.transition_id_to_phone(tids[frame])
                expected.append((phone, frame + 1 - start))
                start = frame + 1
            frame += 1
        assert start == len(tids)
        assert alignment_to_phones(alignments[utterance], transitions) == expected


def test_graphs_are_written_and_read_back(made, trained, tmp_path):
    model = read_gmm_model(trained / "final.mdl")
    compiler = GraphCompiler(model.transition_model, read_tree(trained / "tree"), made.lang)
    graphs = {
        u: compiler.compile(made.lang.transcript_to_ids(made.data.text[u]))
        for u in made.data.utterances[:3]
    }
    write_graphs(tmp_path / "graphs", graphs.items())
    again = dict(read_graphs(tmp_path / "graphs"))
    assert list(again) == list(graphs)
    for utterance, graph in graphs.items():
        assert str(again[utterance].fst) == str(graph.fst)
        assert again[utterance].tids.tolist() == graph.tids.tolist()
    write_graphs(tmp_path / "none", [])
    assert list(read_graphs(tmp_path / "none")) == []


def test_graphs_need_three_frames_a_phone(made, trained):
    model = read_gmm_model(trained / "final.mdl")
    compiler = GraphCompiler(model.transition_model, read_tree(trained / "tree"), made.lang)
    graph = compiler.compile(made.lang.transcript_to_ids("bado ba"))
    assert graph.min_frames() == 6 * 3
    assert graph.equal_alignment(17, seed=1) is None
    aligned = graph.equal_alignment(200, seed=1)
    phones = [phone for phone, _ in alignment_to_phones(aligned, model.transition_model)]
    spoken = [phone for phone in phones if phone != made.lang.optional_silence]
    assert spoken == [made.lang.phones[phone] for phone in ["B", "A", "D", "O", "B", "A"]]
    with pytest.raises(DataError, match="empty transcript"):
        compiler.compile([])
    with pytest.raises(DataError, match="no pronunciation"):
        compiler.compile([max(made.lang.words.values()) + 5])
