"""Decoding: a graph small enough to check by hand, and Kaldi's own monophone model."""

import gzip
import json
import shutil
from pathlib import Path

import kaldialign
import numpy as np
import pytest
from golden_models import copy_model

from mariana_asr.archives import ArchiveWriter, iterate_matrices, read_script
from mariana_asr.corpus.datadir import DataDir, read_table
from mariana_asr.decode import decoder as decoder_module
from mariana_asr.decode.decoder import decode, hypothesis_file, read_decode_record
from mariana_asr.decode.graph import read_graph
from mariana_asr.decode.lattice import Lattice, best_paths
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.kaldi import kaldifst

ONE_SETTING = DecodeOptions(
    lm_weights=(10.0,), word_insertion_penalties=(0.0,), acoustic_scale=0.1, beam=100.0
)
PDFS = np.array([0, 1])


def write_graph(folder: Path, *, kind: str = "vector", largest_tid: int = 2) -> Path:
    """A loop of "one" (transition id 1) and "two" (2), which must end with "two"."""
    fst = kaldifst.StdVectorFst()
    for _ in range(3):
        fst.add_state()
    fst.start = 0
    for source in (0, 1, 2):
        if source != 1:
            fst.add_arc(source, kaldifst.StdArc(1, 1, 0.5, 1))
        if source != 2:
            fst.add_arc(source, kaldifst.StdArc(largest_tid, 2, 0.75, 2))
    fst.add_arc(1, kaldifst.StdArc(1, 0, 0.125, 1))
    fst.add_arc(2, kaldifst.StdArc(2, 0, 0.125, 2))
    fst.set_final(2, 0.25)
    folder.mkdir(parents=True, exist_ok=True)
    (kaldifst.StdConstFst(fst) if kind == "const" else fst).write(str(folder / "HCLG.fst"))
    (folder / "words.txt").write_text("<eps> 0\none 1\ntwo 2\n")
    return folder


class FramesAreScores:
    """A model whose features are the log-likelihoods of its two pdfs."""

    front_end = FrontEnd(None, 2, TransformOptions(cmvn="none"))
    pdf_of_transition_id = PDFS

    def log_likelihoods(self, features):
        return features


def frames(labels: str) -> np.ndarray:
    """Scores under which pdf 0 wins where the label is 1, and pdf 1 where it is 2."""
    return np.array([[-1, -90] if x == "1" else [-90, -1] for x in labels], dtype=np.float32)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Four utterances, of which ``nan`` cannot be used and ``open`` ends in no final state."""
    broken = frames("1122")
    broken[2, 0] = np.nan
    utterances = {
        "a": frames("111222"),
        "b": frames("2211222"),
        "nan": broken,
        "open": frames("1112" + "1" * 9),
    }
    with ArchiveWriter(tmp_path / "data" / "feats") as writer:
        for name, matrix in utterances.items():
            writer.write(name, matrix)
    made = DataDir(
        tmp_path / "data",
        dict.fromkeys(utterances, "speaker"),
        text=dict.fromkeys(utterances, "one two"),
        feats=read_script(tmp_path / "data" / "feats.scp"),
    )
    made.write()
    return made


@pytest.fixture
def toy_model(monkeypatch) -> Path:
    monkeypatch.setattr(decoder_module, "load_scorer", lambda *_, **__: FramesAreScores())
    return Path("toy")


def test_words_follow_the_scores_and_costs_add_up(tmp_path: Path):
    decoder = LatticeDecoder(read_graph(write_graph(tmp_path)), PDFS, ONE_SETTING)
    raw, complete = decoder.search(frames("111222"), "a")
    (best,) = best_paths(Lattice.from_raw(raw), [(10.0, 0.5)])
    assert complete
    assert best.words.tolist() == [1, 2]
    # Two words, four self-loops, the final cost; six frames at 1, over the LM weight; penalties.
    assert best.cost == pytest.approx(0.5 + 0.75 + 4 * 0.125 + 0.25 + 6 / 10 + 2 * 0.5, rel=1e-6)


def test_const_graphs_as_kaldi_writes_them_decode_alike(tmp_path: Path):
    found = []
    for kind in ("vector", "const"):
        graph = read_graph(write_graph(tmp_path / kind, kind=kind))
        raw, _ = LatticeDecoder(graph, PDFS, ONE_SETTING).search(frames("12112"), "a")
        found.append(best_paths(Lattice.from_raw(raw), [(10.0, 0.0)])[0])
    assert found[0].words.tolist() == found[1].words.tolist() == [1, 2, 1, 2]
    assert found[0].cost == found[1].cost


def test_a_search_that_reaches_no_final_state_gives_a_partial_path(tmp_path: Path):
    options = ONE_SETTING.model_copy(update={"beam": 5.0})
    decoder = LatticeDecoder(read_graph(write_graph(tmp_path)), PDFS, options)
    raw, complete = decoder.search(frames("2211"), "a")
    assert not complete
    assert best_paths(Lattice.from_raw(raw), [(10.0, 0.0)])[0].words.tolist() == [2, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_by_frame(tmp_path: Path, value):
    scores = frames("1122")
    scores[2, 1] = value
    decoder = LatticeDecoder(read_graph(write_graph(tmp_path)), PDFS, ONE_SETTING)
    with pytest.raises(DataError, match="utt-1: NaN or infinite acoustic scores from frame 2"):
        decoder.search(scores, "utt-1")


def test_no_frames_are_refused(tmp_path: Path):
    decoder = LatticeDecoder(read_graph(write_graph(tmp_path)), PDFS, ONE_SETTING)
    with pytest.raises(DataError, match="no frames"):
        decoder.search(frames("").reshape(0, 2), "utt-1")


def test_a_model_with_too_few_pdfs_is_refused(tmp_path: Path):
    decoder = LatticeDecoder(read_graph(write_graph(tmp_path)), PDFS, ONE_SETTING)
    with pytest.raises(FormatError, match="scores 1 pdfs, but its transition model has pdf 1"):
        decoder.search(frames("1122")[:, :1], "utt-1")


def test_a_graph_of_another_model_is_refused(tmp_path: Path, toy_model, data):
    graph = write_graph(tmp_path / "graph", largest_tid=9)
    with pytest.raises(FormatError, match="transition ids up to 9, the model up to 2"):
        decode(data, toy_model, graph, tmp_path / "out", ONE_SETTING)


def test_a_graph_with_other_words_is_refused(tmp_path: Path, toy_model, data):
    graph = write_graph(tmp_path / "graph")
    (graph / "words.txt").write_text("<eps> 0\none 1\n")
    with pytest.raises(FormatError, match=r"words.txt: the graph has word ids .* such as 2"):
        decode(data, toy_model, graph, tmp_path / "out", ONE_SETTING)


def test_an_empty_graph_is_refused(tmp_path: Path):
    write_graph(tmp_path)
    kaldifst.StdVectorFst().write(str(tmp_path / "HCLG.fst"))
    with pytest.raises(FormatError, match="graph is empty"):
        read_graph(tmp_path)


def test_a_folder_without_a_graph_is_refused(tmp_path: Path):
    with pytest.raises(FormatError, match=r"HCLG.fst: no such file"):
        read_graph(tmp_path)


def test_unusable_utterances_get_an_empty_hypothesis_and_are_listed(tmp_path, toy_model, data):
    graph, out = write_graph(tmp_path / "graph"), tmp_path / "out"
    options = ONE_SETTING.model_copy(update={"beam": 9.5})
    summary = decode(data, toy_model, graph, out, options)

    hypotheses = read_table(hypothesis_file(out, 10, 0))
    assert hypotheses == {"a": "one two", "b": "two one two", "nan": "", "open": "one two one"}
    assert (summary.utterances, summary.decoded, summary.skipped, summary.partial) == (4, 3, 1, 1)
    assert list(read_table(out / "skipped.txt")) == ["nan"]
    assert "NaN" in (out / "skipped.txt").read_text()
    assert (out / "partial.txt").read_text() == "open\n"
    assert summary.audio_seconds == pytest.approx(0.26)
    assert read_decode_record(out).options == options
    assert json.loads((out / "decode.json").read_text())["decoded"] == 3


def test_nothing_decoded_fails_and_leaves_no_hypotheses(tmp_path, toy_model, data):
    out = tmp_path / "out"
    (out).mkdir()
    (out / "decode.json").write_text("{}")
    with pytest.raises(StageError, match=r"decoding: none of 1 utterances .* nan NaN"):
        decode(data.subset(["nan"]), toy_model, write_graph(tmp_path / "graph"), out, ONE_SETTING)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["skipped.txt"]


def test_a_decoding_that_did_not_finish_has_no_record(tmp_path: Path):
    with pytest.raises(FormatError, match=r"decode.json: no such file"):
        read_decode_record(tmp_path)


def test_a_model_folder_without_a_model_is_refused(tmp_path: Path, data):
    with pytest.raises(FormatError, match="no folder of a trained model"):
        decode(data, tmp_path, write_graph(tmp_path / "graph"), tmp_path / "out", ONE_SETTING)


@pytest.fixture(scope="module")
def an4(an4_test: DataDir, golden: Path, tmp_path_factory) -> tuple[DataDir, Path]:
    """Kaldi's AN4 test set, and its monophone model with its graph."""
    model = copy_model(golden / "an4_kaldi", "mono", tmp_path_factory.mktemp("mono"))
    FrontEnd(None, 13, TransformOptions(delta_order=2)).save(model)
    return an4_test, model


def test_kaldis_monophone_model_has_kaldis_word_error_rate(an4, golden: Path, tmp_path: Path):
    data, model = an4
    summary = decode(data, model, model, tmp_path, DecodeOptions(), jobs=2)
    assert (summary.decoded, summary.partial, summary.skipped) == (130, 0, 0)
    errors = {}
    for setting in DecodeOptions().settings:
        hypotheses = read_table(hypothesis_file(tmp_path, *setting))
        assert list(hypotheses) == data.utterances
        errors[setting] = sum(
            kaldialign.edit_distance(text.split(), hypotheses[utterance].split())["total"]
            for utterance, text in data.text.items()
        )
    # Kaldi: 93 of 773, with beam 20 and lattice beam 10, at LM weight 10 and penalty 0.5.
    assert 100 * min(errors.values()) / 773 == pytest.approx(12.03, abs=0.4)
    kaldis = read_table(golden / "an4_kaldi" / "mono" / "test_hyp.txt")
    ours = read_table(hypothesis_file(tmp_path, 10, 0.5))
    assert sum(ours[utterance] == kaldis[utterance] for utterance in kaldis) >= 127


def test_written_lattices_hold_the_hypotheses_and_unscaled_acoustics(an4, tmp_path: Path):
    data, model = an4
    few = data.subset(data.utterances[:4])
    options = DecodeOptions(write_lattices=True, beam=10.0, lattice_beam=4.0)
    decode(few, model, model, tmp_path / "alone", options)
    archive = gzip.decompress((tmp_path / "alone" / "lat.1.gz").read_bytes())
    starts = [archive.index(f"{utterance} ".encode()) for utterance in few.utterances]
    hypotheses = read_table(hypothesis_file(tmp_path / "alone", 10, 0))
    words = read_graph(model).words
    for utterance, start, end in zip(
        few.utterances, starts, [*starts[1:], len(archive)], strict=True
    ):
        (tmp_path / "lat").write_bytes(archive[start + len(utterance) + 1 : end])
        lattice = kaldifst.Lattice.read(str(tmp_path / "lat"))
        kaldifst.scale_lattice(kaldifst.lattice_scale(1.0, 1 / 10), lattice)
        best = kaldifst.shortest_path(lattice)
        _, transition_ids, ids, _ = kaldifst.get_linear_symbol_sequence(best)
        num_frames = len(
            next(m for u, m in iterate_matrices(data.path / "feats.scp") if u == utterance)
        )
        assert len(transition_ids) == num_frames
        # O and OH sound alike and are as likely here: either may win.
        found = " ".join(words[i] for i in ids)
        assert found.replace("OH", "O") == hypotheses[utterance].replace("OH", "O")


def test_features_of_another_dimension_are_refused(an4, tmp_path: Path):
    data, model = an4
    shutil.copytree(model, tmp_path / "mono")
    FrontEnd(None, 12, TransformOptions(delta_order=2)).save(tmp_path / "mono")
    with pytest.raises(FormatError, match=r"GMMs have 39 dimensions, their front end gives 36"):
        decode(data, tmp_path / "mono", model, tmp_path / "out", ONE_SETTING)
