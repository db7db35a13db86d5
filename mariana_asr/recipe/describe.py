"""What is in a file or folder that this toolkit or Kaldi wrote, in a few lines for people."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mariana_asr.align.formats.model_io import read_gmm_model, read_transition_model
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import iterate_matrices, read_int_vectors
from mariana_asr.corpus.audio import open_audio_info
from mariana_asr.corpus.datadir import read_data_dir, read_table
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.sequence.lattice_store import LatticeStore
from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import FRONT_END_FILE, FrontEnd, read_feature_dim
from mariana_asr.lang.langdir import read_lang
from mariana_asr.recipe.describe_training import (
    checkpoint_facts,
    checkpoint_file_facts,
    is_checkpoint,
    is_training,
    log_facts,
    training_facts,
)
from mariana_asr.recipe.runner import RECORD, stage_seconds
from mariana_asr.score.candidates import SELECTION_FILE, read_selection
from mariana_asr.score.results import RESULTS_TEXT

Facts = Iterator[tuple[str, str]]
"""Names of facts and what they are."""


def describe(path: str | Path) -> tuple[str, list[tuple[str, str]]]:
    """Say what kind of thing is at a path, and the facts about it.

    Raises:
        FormatError: Nothing is there, or nothing that is known here; the message lists what is.
        MarianaError: It is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError("no such file or folder", where=path)
    kinds = _FOLDERS if path.is_dir() else _FILES
    for kind, recognises, facts in kinds:
        if recognises(path):
            return kind, list(facts(path))
    raise FormatError(
        f"not one of: {', '.join(kind for kind, _, _ in kinds)}",
        where=path,
        remedy="Name the folder or file itself",
    )


def _experiment(path: Path) -> Facts:
    for stage, seconds in stage_seconds(path).items():
        yield f"stage {stage}", f"{seconds:.1f} s"
    if (path / RESULTS_TEXT).exists():
        for line in (path / RESULTS_TEXT).read_text(encoding="utf-8").splitlines():
            rate, _, system = line.partition(" ] ")
            yield f"result {system}", f"{rate} ]"


def _data_dir(path: Path) -> Facts:
    data = read_data_dir(path)
    yield "utterances", f"{len(data.utt2spk):,}"
    yield "speakers", f"{len(data.spk2utt):,}"
    words = [len(text.split()) for text in data.text.values()]
    yield "words", f"{sum(words):,}"
    if data.segments is not None:
        yield "recordings", f"{len(data.wav):,}, cut by segments"
    elif data.wav:
        yield "recordings", f"{len(data.wav):,}"
    if (path / "utt2dur").exists():
        seconds = sum(float(value) for value in read_table(path / "utt2dur").values())
        yield "hours of audio", f"{seconds / 3600:.2f}"
    if data.feats:
        yield "feature dimension", str(read_feature_dim(data))
    if (path / "utt2num_frames").exists():
        frames = [int(value) for value in read_table(path / "utt2num_frames").values()]
        yield "frames", f"{sum(frames):,}, {min(frames)} to {max(frames)} an utterance"


def _lang_dir(path: Path) -> Facts:
    lang = read_lang(path)
    yield "words", f"{len(lang.words):,}"
    yield (
        "phones",
        f"{len(lang.nonsilence_phones)} of speech, {len(lang.silence_phones)} of silence",
    )
    yield "phones carry their place in the word", "no" if lang.word_boundary is None else "yes"
    yield "unknown words become", lang.oov_word
    yield "grammar", "G.fst" if (path / "G.fst").exists() else "none"


def _graph_dir(path: Path) -> Facts:
    yield "HCLG.fst", f"{(path / 'HCLG.fst').stat().st_size / 2**20:.2f} MiB"
    yield "pdfs", (path / "num_pdfs").read_text().strip() if (path / "num_pdfs").exists() else "?"


def _model_dir(path: Path) -> Facts:
    if (path / "nnet.pt").exists():
        yield from _network(path / "nnet.pt")
        model = read_transition_model(path / "final.mdl")
        yield "transition ids", f"{model.num_transition_ids:,}"
        yield from log_facts(path)
        if (path / SELECTION_FILE).exists():
            selection = read_selection(path / SELECTION_FILE)
            yield "weights", f"{selection.candidates[selection.chosen].name}, chosen among several"
    else:
        yield from _gmm(path / "final.mdl")
        if (path / FRONT_END_FILE).exists():
            yield "front end", FrontEnd.load(path).describe()
        try:
            yield "alignments", f"{len(read_alignments(path)):,} utterances"
        except FormatError:
            yield "alignments", "none"


def _gmm(path: Path) -> Facts:
    try:
        model = read_gmm_model(path)
    except FormatError:
        transition_model = read_transition_model(path)
        yield "transition model", f"{transition_model.num_pdfs} pdfs, followed by no GMM"
        return
    transition_model = model.transition_model
    yield "pdfs", f"{model.gmm.num_pdfs:,}"
    yield "Gaussians", f"{len(model.gmm.weights):,}"
    yield "feature dimension", str(model.gmm.dim)
    yield "phones", str(len(transition_model.phones))
    yield "transition ids", f"{transition_model.num_transition_ids:,}"


def _network(path: Path) -> Facts:
    from mariana_asr.nnet.acoustic_model import AcousticModel

    model = AcousticModel.load(path)
    parameters = sum(p.numel() for p in model.network.parameters())
    for name, value in model.options.model_dump(
        exclude={"transform", "features", "adapted"}
    ).items():
        yield name, str(value)
    yield "parameters", f"{parameters:,}"
    yield "pdfs", f"{model.num_pdfs:,}"
    yield "front end", model.front_end.describe()


def _frame_store(path: Path) -> Facts:
    store = FrameStore.open(path)
    yield "frames", f"{store.num_frames:,}"
    yield "utterances", f"{store.num_utterances:,}"
    yield "values a frame", str(store.dim)
    yield "classes", f"{store.num_outputs:,}, {int((store.class_counts > 0).sum()):,} of them seen"


def _lattice_store(path: Path) -> Facts:
    store = LatticeStore.open(path)
    frames = int(store.frames.sum())
    yield "utterances", f"{len(store):,}"
    yield "frames", f"{frames:,}"
    yield "arcs", f"{store.num_arcs:,}, {store.num_arcs / frames:.1f} a frame"


def _archive(path: Path) -> Facts:
    count = rows = bad = 0
    columns: set[int] = set()
    low, high = np.inf, -np.inf
    for _, matrix in iterate_matrices(path):
        count, rows = count + 1, rows + len(matrix)
        columns.add(matrix.shape[-1])
        low, high = min(low, matrix.min(initial=np.inf)), max(high, matrix.max(initial=-np.inf))
        bad += not np.isfinite(matrix).all()
    yield "matrices", f"{count:,}"
    yield "rows", f"{rows:,}"
    yield "columns", ", ".join(str(c) for c in sorted(columns))
    yield "values", f"{low:g} to {high:g}"
    yield "matrices with NaN or infinity", str(bad)


def _holds_integers(path: Path) -> bool:
    """Whether an archive holds alignments: gzipped, or its first entry is an integer vector."""
    if path.suffix != ".ark":
        return path.suffix == ".gz"
    with open(path, "rb") as file:
        _, _, entry = file.read(1024).partition(b" ")
    return entry.startswith(b"\0B\4") or entry[:1].isdigit()


def _int_archive(path: Path) -> Facts:
    vectors = read_int_vectors(path)
    yield "integer vectors", f"{len(vectors):,}"
    yield "integers", f"{sum(len(v) for v in vectors.values()):,}"
    yield "greatest", str(max((int(v.max(initial=0)) for v in vectors.values()), default=0))


def _audio(path: Path) -> Facts:
    rate, frames, channels = open_audio_info(str(path))
    yield "sample rate", f"{rate} Hz"
    yield "channels", str(channels)
    yield "seconds", f"{frames / rate:.3f}"


Kind = tuple[str, Callable[[Path], bool], Callable[[Path], Facts]]


def _holding(*names: str) -> Callable[[Path], bool]:
    return lambda path: all((path / name).exists() for name in names)


def _ending(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.endswith(suffixes)


_FOLDERS: list[Kind] = [
    ("experiment", lambda path: any(path.glob(f"*/{RECORD}")), _experiment),
    ("model", _holding("final.mdl"), _model_dir),
    ("decoding graph", _holding("HCLG.fst"), _graph_dir),
    ("lang directory", _holding("words.txt", "phones.txt", "topo"), _lang_dir),
    ("checkpoint", is_checkpoint, checkpoint_facts),
    ("frame store", _holding("meta.json", "offsets.npy"), _frame_store),
    ("lattice store", _holding("meta.json", "index.npy"), _lattice_store),
    ("data directory", _holding("utt2spk"), _data_dir),
    ("training", is_training, training_facts),
]
_FILES: list[Kind] = [
    ("GMM or transition model", _ending(".mdl"), _gmm),
    ("network", lambda path: path.name == "nnet.pt", _network),
    ("file of a checkpoint", _ending(".ckpt"), checkpoint_file_facts),
    ("alignments", _holds_integers, _int_archive),
    ("archive", _ending(".ark", ".scp"), _archive),
    ("audio", _ending(".wav", ".flac", ".ogg", ".sph"), _audio),
]
