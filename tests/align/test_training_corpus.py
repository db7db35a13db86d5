"""Training data packed on disk: what comes back is what went in, utterance by utterance."""

import dataclasses
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from coloured_speech import PLAIN
from made_speech import DIM, Made
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.align.graphs import GraphCompiler
from mariana_asr.align.training.corpus import Chunk, TrainingCorpus, spliced_features
from mariana_asr.archives import ArchiveWriter, read_matrix, write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.kaldi import kaldi_hmm_gmm as khg
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

SIZES = [16, 16, 8]
"""Utterances in each chunk of the made-up data: 40 make fewer than 16 chunks of 16."""


@contextmanager
def packed(
    data: DataDir, out_dir: Path, skipped: Skipped, *, jobs: int = 1
) -> Iterator[TrainingCorpus]:
    out_dir.mkdir(exist_ok=True)
    front_end = FrontEnd.of(data, PLAIN)
    with WorkerPool(jobs) as pool, TrainingCorpus(out_dir, pool) as corpus:
        corpus.pack(data, front_end, skipped)
        yield corpus


@pytest.fixture
def corpus(made: Made, tmp_path: Path) -> Iterator[TrainingCorpus]:
    with packed(made.data, tmp_path, Skipped("test")) as corpus:
        yield corpus


@pytest.fixture(scope="module")
def monophones(made: Made) -> tuple[TransitionModel, ContextDependency]:
    topology = made.lang.topology()
    tree = khg.monophone_context_dependency_shared(
        [sorted(phones) for phones in made.lang.phone_sets], topology.get_phone_to_num_pdf_classes()
    )
    return khg.TransitionModel(tree, topology), tree


@pytest.fixture(scope="module")
def feats(made: Made) -> dict[str, np.ndarray]:
    places = made.data.feats
    return {utterance: read_matrix(places[utterance]).astype(np.float32) for utterance in places}


def chunks(corpus: TrainingCorpus) -> list[Chunk]:
    return [chunk for chunk, _ in corpus.map(_nothing, None)]


def _nothing(chunk: Chunk, _: None) -> None:
    pass


def by_utterance(corpus: TrainingCorpus, read=Chunk.features) -> dict[str, np.ndarray]:
    """Frames of each utterance, in the order of the corpus."""
    return {
        line.utterance: np.array(read(chunk)[line.start : line.end])
        for chunk in chunks(corpus)
        for line in chunk.index()
    }


def assert_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(expected)
    for utterance, frames in expected.items():
        np.testing.assert_allclose(ours[utterance], frames, rtol=1e-5, atol=1e-5)


def test_features_transcripts_and_speakers_are_packed_in_order(made, corpus, feats):
    ours = by_utterance(corpus)
    assert list(ours) == sorted(feats)
    assert all(np.array_equal(ours[u], feats[u]) for u in feats)
    assert corpus.num_utterances == 40
    assert [len(chunk.index()) for chunk in chunks(corpus)] == SIZES
    for chunk in chunks(corpus):
        end = 0
        for line in chunk.index():
            assert (line.start, line.text) == (end, made.data.text[line.utterance])
            assert line.speaker == made.data.utt2spk[line.utterance]
            end = line.end
        assert chunk.features().shape == (end, DIM)
        assert chunk.features().dtype == np.float32


def test_the_moments_are_those_of_the_first_chunk(made, tmp_path, feats):
    with WorkerPool(1) as pool, TrainingCorpus(tmp_path, pool) as corpus:
        moments = corpus.pack(made.data, FrontEnd.of(made.data, PLAIN), Skipped("test"))
    first = np.concatenate([feats[u] for u in sorted(feats)[:16]]).astype(np.float64)
    assert moments.frames == len(first)
    np.testing.assert_allclose(moments.total, first.sum(axis=0))
    np.testing.assert_allclose(moments.squares, (first**2).sum(axis=0))


def test_utterances_that_cannot_be_packed_are_noted_and_a_chunk_of_them_is_none(made, tmp_path):
    bad = made.data.utterances[:16]
    with ArchiveWriter(tmp_path / "bad") as writer:
        for utterance in bad:
            writer.write(utterance, np.full((30, DIM), np.nan))
    places = (line.split() for line in (tmp_path / "bad.scp").read_text().splitlines())
    data = dataclasses.replace(made.data, feats=made.data.feats | dict(places))
    text = made.data.text | {made.data.utterances[20]: ""}
    data = dataclasses.replace(data, text=text)
    skipped = Skipped("test")
    with packed(data, tmp_path, skipped) as corpus:
        # The utterance without a transcript is no longer there when the corpus is cut.
        assert [len(chunk.index()) for chunk in chunks(corpus)] == [16, 7]
        assert corpus.num_utterances == 23
    assert skipped.reasons.keys() == {*bad, made.data.utterances[20]}
    assert "NaN or infinite features in 30 of 30 frames" in skipped.reasons[bad[0]]


def test_a_corpus_without_a_usable_utterance_gives_no_moments(made, tmp_path):
    data = dataclasses.replace(made.data, text={})
    with WorkerPool(1) as pool, TrainingCorpus(tmp_path, pool) as corpus:
        skipped = Skipped("test")
        assert corpus.pack(data, FrontEnd.of(data, PLAIN), skipped) is None
        assert corpus.num_utterances == 0
        assert len(skipped) == 40


def test_speakers_may_be_spread_over_chunks(corpus):
    assert corpus.speakers_of_chunks() == [{"s0", "s1"}, {"s1", "s2", "s3"}, {"s3"}]


@pytest.fixture
def alignments(made: Made, monophones) -> dict[str, np.ndarray]:
    """Any numbers that are transition ids."""
    random = np.random.default_rng(0)
    highest = monophones[0].num_transition_ids
    return {u: random.integers(1, highest + 1, size=len(t)) for u, t in sorted(made.truth.items())}


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_alignments_are_taken_over_in_whatever_order_they_come(
    corpus, alignments, monophones, tmp_path, order
):
    utterances = sorted(alignments, reverse=order == "backwards")
    if order == "shuffled":
        np.random.default_rng(1).shuffle(utterances)
    vectors = [(utterance, alignments[utterance]) for utterance in utterances]
    write_int_vectors(tmp_path / "ali.1.gz", vectors[:25])
    write_int_vectors(tmp_path / "ali.2.gz", vectors[25:])
    assert corpus.load_alignments(tmp_path, monophones[0]) == {}
    assert_equal(dict(corpus.alignments()), alignments)
    assert_equal(by_utterance(corpus, Chunk.alignment), alignments)


def test_alignments_that_are_missing_longer_or_of_others_are_told_apart(
    corpus, alignments, monophones, tmp_path
):
    missing, longer, shorter, empty = (list(alignments)[place] for place in (0, 5, 17, 39))
    frames = {utterance: len(tids) for utterance, tids in alignments.items()}
    given = dict(alignments) | {"foreign": np.ones(12, dtype=np.int32)}
    del given[missing]
    given[longer] = np.append(given[longer], 1)
    given[shorter] = given[shorter][:-2]
    given[empty] = given[empty][:0]
    write_int_vectors(tmp_path / "ali.1.gz", given.items())
    failed = corpus.load_alignments(tmp_path / "ali.1.gz", monophones[0])
    assert failed == {
        missing: f"no alignment in {tmp_path / 'ali.1.gz'}",
        longer: f"{frames[longer]} frames of features, but {frames[longer] + 1} in the alignment",
        shorter: f"{frames[shorter]} frames of features, but {frames[shorter] - 2} in the "
        "alignment",
        empty: f"{frames[empty]} frames of features, but 0 in the alignment",
    }
    good = {u: tids for u, tids in alignments.items() if u not in failed}
    assert_equal(dict(corpus.alignments()), good)
    assert not any(by_utterance(corpus, Chunk.alignment)[u].any() for u in failed)


def test_alignments_replace_those_from_before(corpus, alignments, monophones, tmp_path):
    write_int_vectors(tmp_path / "ali.1.gz", alignments.items())
    corpus.load_alignments(tmp_path, monophones[0])
    first = next(iter(alignments))
    write_int_vectors(tmp_path / "ali.1.gz", [(first, alignments[first])])
    assert len(corpus.load_alignments(tmp_path, monophones[0])) == 39
    assert_equal(dict(corpus.alignments()), {first: alignments[first]})


def test_alignments_of_another_model_are_refused(corpus, alignments, monophones, tmp_path):
    first = next(iter(alignments))
    highest = monophones[0].num_transition_ids
    for bad in (0, highest + 1):
        tids = np.where(np.arange(len(alignments[first])) == 3, bad, alignments[first])
        write_int_vectors(tmp_path / "ali.1.gz", [(first, tids)])
        with pytest.raises(FormatError, match=rf"{bad} is no transition id.* 1 to {highest}"):
            corpus.load_alignments(tmp_path, monophones[0])


def plainly_spliced(frames: np.ndarray, left: int, right: int) -> np.ndarray:
    rows = []
    for t in range(len(frames)):
        around = [min(max(t + offset, 0), len(frames) - 1) for offset in range(-left, right + 1)]
        rows.append(np.concatenate([frames[place] for place in around]))
    return np.array(rows)


def test_splicing_stays_within_the_utterance(corpus, feats):
    spliced = by_utterance(corpus, lambda chunk: spliced_features(chunk, 3, 1))
    assert_equal(spliced, {u: plainly_spliced(feats[u], 3, 1) for u in sorted(feats)})


def test_features_are_replaced_by_transforms_of_them_and_their_neighbours(corpus, feats):
    random = np.random.default_rng(0)
    first = random.normal(size=(6, 4 * DIM)).astype(np.float32)
    second = random.normal(size=(5, 6)).astype(np.float32)
    corpus.splice_and_project(first, left=1, right=2)
    expected = {u: plainly_spliced(feats[u], 1, 2) @ first.T for u in sorted(feats)}
    assert_equal(by_utterance(corpus), expected)
    corpus.transform(second)
    assert_equal(by_utterance(corpus), {u: own @ second.T for u, own in expected.items()})


def test_speakers_transforms_take_the_place_of_earlier_ones(made, corpus, feats):
    random = np.random.default_rng(0)
    for _ in range(2):
        transforms = {
            speaker: random.normal(size=(DIM, DIM + 1)).astype(np.float32)
            for speaker in ("s0", "s1", "s2", "s3")
        }
        corpus.adapt(transforms)
    expected = {}
    for utterance in sorted(feats):
        matrix = transforms[made.data.utt2spk[utterance]]
        expected[utterance] = feats[utterance] @ matrix[:, :DIM].T + matrix[:, DIM]
    assert_equal(by_utterance(corpus), expected)
    unadapted = by_utterance(corpus, Chunk.unadapted_features)
    assert all(np.array_equal(unadapted[u], feats[u]) for u in feats)


def test_graphs_say_the_transcripts(made, tmp_path, monophones):
    unknown = made.data.utterances[18]
    data = dataclasses.replace(made.data, text=made.data.text | {unknown: "ba what"})
    skipped = Skipped("test")
    with packed(data, tmp_path, skipped) as corpus:
        corpus.set_model(*monophones)
        corpus.compile_graphs(made.lang, skipped)
        assert not skipped
        assert corpus.align_equally() == {}
        aligned = dict(corpus.alignments())
        graphs = {
            line.utterance: graph for chunk in chunks(corpus) for line, graph in chunk.graphs()
        }
    assert list(graphs) == list(aligned) == data.utterances
    compiler = GraphCompiler(*monophones, made.lang)
    names = {number: symbol for symbol, number in made.lang.phones.items()}
    for utterance, graph in graphs.items():
        expected = compiler.compile(made.lang.transcript_to_ids(data.text[utterance]))
        assert str(graph.fst) == str(expected.fst)
        assert graph.tids.tolist() == expected.tids.tolist()
        phones = alignment_to_phones(aligned[utterance], monophones[0])
        assert sum(frames for _, frames in phones) == len(made.truth[utterance])
        said = [names[phone] for phone, _ in phones if phone != made.lang.optional_silence]
        # Words are written as their phones.
        words = data.text[utterance].upper().replace("WHAT", "").replace(" ", "")
        assert said == [*words, *(["SPN"] if utterance == unknown else [])]


def test_a_flat_start_needs_enough_frames_and_is_always_the_same(made, tmp_path, monophones):
    short = made.data.utterances[3]
    data = dataclasses.replace(made.data, text=made.data.text | {short: "bado " * 60})
    with packed(data, tmp_path, Skipped("test")) as corpus:
        corpus.set_model(*monophones)
        corpus.compile_graphs(made.lang, Skipped("test"))
        starts = []
        for _ in range(2):
            failed = corpus.align_equally()
            assert failed == {short: f"too few frames for a flat start: {len(made.truth[short])}"}
            starts.append(dict(corpus.alignments()))
    assert starts[0].keys() == made.truth.keys() - {short}
    assert_equal(starts[1], starts[0])


def _sums(chunk: Chunk, factor: float) -> tuple[int, float]:
    return len(chunk.index()), factor * float(chunk.features().sum())


def _fails(chunk: Chunk, what: str) -> None:
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise DataError(what)


def test_two_processes_do_what_one_does_in_the_same_order(made, tmp_path):
    given = {}
    for jobs in (1, 2):
        with packed(made.data, tmp_path / str(jobs), Skipped("test"), jobs=jobs) as corpus:
            given[jobs] = [result for _, result in corpus.map(_sums, 0.5)]
            given[jobs] += [result for _, result in corpus.map(_sums, 2.0)]
            assert len(list(corpus.folder.glob("*.shared"))) == 0
            if jobs == 2:
                with pytest.raises(DataError, match="broken"):
                    list(corpus.map(_fails, "broken"))
                with pytest.raises(StageError, match=r"one of 2 processes .* died"):
                    list(corpus.map(_fails, "killed"))
        assert list((tmp_path / str(jobs)).iterdir()) == []
    assert [count for count, _ in given[1]] == SIZES * 2
    assert given[1] == given[2]


def test_leftovers_of_a_killed_run_are_removed(made, tmp_path):
    (tmp_path / ".passes.dead").mkdir()
    (tmp_path / ".passes.dead/000000.feats.npy").write_text("half")
    (tmp_path / "precious").write_text("kept")
    with packed(made.data, tmp_path, Skipped("test")) as corpus:
        assert list(tmp_path.glob(".passes.*")) == [corpus.folder]
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_folder_goes_whatever_happens(made, tmp_path, error):
    with pytest.raises(error):
        with packed(made.data, tmp_path, Skipped("test")):
            raise error
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond a size, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _writes_its_graphs_again(chunk: Chunk, _: None) -> None:
    graphs = [(line.utterance, graph) for line, graph in chunk.graphs()]
    with largest_file(20_000):
        chunk.write_graphs(graphs)


@pytest.mark.parametrize("step", ["features", "graphs", "shared"])
def test_a_full_disk_is_a_clear_error(made, tmp_path, monophones, step):
    with pytest.raises(StageError, match=r"cannot be read or written.*There must be room"):
        if step == "features":
            with largest_file(20_000), packed(made.data, tmp_path, Skipped("test")):
                pass
        with packed(made.data, tmp_path, Skipped("test")) as corpus:
            corpus.set_model(*monophones)
            if step == "graphs":
                corpus.compile_graphs(made.lang, Skipped("test"))
                list(corpus.map(_writes_its_graphs_again, None))
            with largest_file(20_000):
                list(corpus.map(_nothing, np.zeros(10_000)))
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with WorkerPool(1) as pool, pytest.raises(StageError, match=r"file.*Not a directory"):
        TrainingCorpus(tmp_path / "file", pool)
