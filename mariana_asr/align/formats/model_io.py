"""Kaldi's GMM-HMM models (``final.mdl``): a transition model and the Gaussians of all pdfs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.kaldi_stream import (
    BINARY_HEADER,
    KaldiSource,
    TextSource,
    encode_integer,
    encode_integers,
    encode_matrix,
    encode_number,
    encode_token,
    encode_vector,
    expect,
    open_source,
)
from mariana_asr.align.formats.tree_io import read_tree, write_tree
from mariana_asr.align.gmm.gaussians import DiagGmms, offsets_of
from mariana_asr.files import atomic_file
from mariana_asr.kaldi import kaldi_hmm_gmm

__all__ = [
    "GmmModel",
    "TransitionModel",
    "read_gmm_model",
    "read_transition_model",
    "read_tree",
    "transition_id_to_pdf",
    "write_gmm_model",
    "write_transition_model",
    "write_tree",
]

TransitionModel = Any
"""kaldi_hmm_gmm.TransitionModel; the wheel has no types."""

NO_PDF = -1
"""Kaldi's kNoPdf: the pdf class of a state that emits nothing."""

State = tuple[int, int, list[tuple[int, float]]]
"""An HMM state of a topology: forward pdf class, self-loop pdf class, (target, probability)."""


@dataclass(frozen=True)
class GmmModel:
    """What a ``final.mdl`` of Kaldi's GMM training holds.

    Attributes:
        transition_model: kaldi_hmm_gmm.TransitionModel.
        gmm: The Gaussians of all pdfs.
    """

    transition_model: TransitionModel
    gmm: DiagGmms


def read_gmm_model(path: str | Path) -> GmmModel:
    """Read a GMM-HMM model, binary or text.

    Raises:
        FormatError: The file is missing, damaged, or holds another kind of model.
    """
    source = open_source(path)
    transition_model = _read_transition_model(source)
    return GmmModel(transition_model, _read_gmms(source, transition_model.num_pdfs))


def read_transition_model(path: str | Path) -> TransitionModel:
    """Read the transition model at the beginning of a ``final.mdl`` of any kind, GMM or neural.

    Raises:
        FormatError: The file is missing, damaged or does not begin with a transition model.
    """
    return _read_transition_model(open_source(path))


def write_gmm_model(path: str | Path, model: GmmModel) -> None:
    """Write a GMM-HMM model in Kaldi's binary form, atomically."""
    content = transition_model_to_bytes(model.transition_model) + _gmms_to_bytes(model.gmm)
    with atomic_file(path) as temporary:
        temporary.write_bytes(BINARY_HEADER + content)


def write_transition_model(path: str | Path, transition_model: TransitionModel) -> None:
    """Write a transition model alone in Kaldi's binary form, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(BINARY_HEADER + transition_model_to_bytes(transition_model))


def transition_id_to_pdf(transition_model: TransitionModel) -> NDArray[np.int32]:
    """Pdf id of every transition id; index 0 is no transition id and holds -1."""
    pdfs = np.array(transition_model.id2pdf_id, dtype=np.int32)
    pdfs[0] = -1
    return pdfs


def transition_model_to_bytes(transition_model: TransitionModel) -> bytes:
    r"""Kaldi's binary form of a transition model, without ``\0B`` (TransitionModel::Write)."""
    topology = transition_model.topo
    phones, phone_to_entry, entries = topology.__getstate__()
    is_hmm = topology.is_hmm
    parts = [encode_token("<TransitionModel>"), encode_token("<Topology>")]
    parts += [encode_integers(phones), encode_integers(phone_to_entry)]
    # Kaldi marks topologies whose self-loops have pdfs of their own by a size of -1 first.
    parts += [] if is_hmm else [encode_integer(-1)]
    parts.append(encode_integer(len(entries)))
    for entry in entries:
        parts.append(encode_integer(len(entry)))
        for state in entry:
            forward, self_loop, transitions = state.__getstate__()
            parts.append(encode_integer(forward))
            parts += [] if is_hmm else [encode_integer(self_loop)]
            parts.append(encode_integer(len(transitions)))
            for target, probability in transitions:
                parts += [encode_integer(target), encode_number(probability)]
    parts.append(encode_token("</Topology>"))
    tuples = [item.__getstate__() for item in transition_model.tuples]
    # Whether tuples are written with three or four numbers goes by the same rule as above.
    name = "Triples" if is_hmm else "Tuples"
    parts += [encode_token(f"<{name}>"), encode_integer(len(tuples))]
    for values in tuples:
        parts += [encode_integer(value) for value in values[: 3 if is_hmm else 4]]
    parts += [encode_token(f"</{name}>"), encode_token("<LogProbs>")]
    parts.append(encode_vector(np.array(transition_model.log_probs, dtype=np.float32)))
    parts += [encode_token("</LogProbs>"), encode_token("</TransitionModel>")]
    return b"".join(parts)


def _read_transition_model(source: KaldiSource) -> TransitionModel:
    """Kaldi: TransitionModel::Read, with its derived tables rebuilt (ComputeDerived)."""
    expect(source, "<TransitionModel>")
    expect(source, "<Topology>")
    if isinstance(source, TextSource):
        phone_to_entry, entries = _read_text_topology(source)
    else:
        phone_to_entry, entries = _read_binary_topology(source)
    topology = _make_topology(source, phone_to_entry, entries)
    name = expect(source, "<Triples>", "<Tuples>")
    width = 3 if name == "<Triples>" else 4
    tuples = [
        tuple(source.integer() for _ in range(width))
        for _ in range(_checked_size(source, source.integer(), "transition states"))
    ]
    expect(source, name.replace("<", "</"))
    expect(source, "<LogProbs>")
    log_probs = source.vector()
    expect(source, "</LogProbs>")
    expect(source, "</TransitionModel>")

    state_to_id, id_to_state, id_to_pdf = [0, 1], [0], [0]
    non_self_loop = [0.0]
    for number, (phone, hmm_state, forward_pdf, *rest) in enumerate(tuples, 1):
        self_loop_pdf = rest[0] if rest else forward_pdf
        if phone not in phone_to_entry or not 0 <= hmm_state < len(entries[phone_to_entry[phone]]):
            source.fail(f"no state {hmm_state} in the topology of phone {phone}")
        if min(forward_pdf, self_loop_pdf) < 0:
            source.fail(f"transition state {number} has no pdf")
        transitions = entries[phone_to_entry[phone]][hmm_state][2]
        rest_probability = 0.0
        for target, _ in transitions:
            if len(id_to_state) >= len(log_probs):
                source.fail(f"too few transition probabilities: {len(log_probs) - 1}")
            if target == hmm_state:
                log_prob = log_probs[len(id_to_state)]
                rest_probability = float(np.log(max(1.0 - np.exp(log_prob), 1.0e-10)))
            id_to_state.append(number)
            id_to_pdf.append(self_loop_pdf if target == hmm_state else forward_pdf)
        non_self_loop.append(rest_probability)
        state_to_id.append(len(id_to_state))
    if len(log_probs) != len(id_to_state):
        source.fail(f"{len(log_probs) - 1} transition probabilities, {len(id_to_state) - 1} wanted")
    if not (log_probs <= 0).all():
        source.fail("a transition probability is above 1 or not a number")
    make_tuple = sys.modules[
        kaldi_hmm_gmm.TransitionModel.__module__
    ].TransitionModelTuple  # the package does not pass this class on
    model = kaldi_hmm_gmm.TransitionModel.__new__(kaldi_hmm_gmm.TransitionModel)
    model.__setstate__(
        (
            [make_tuple(*values, *values[2:3] * (4 - width)) for values in tuples],
            topology,
            state_to_id,
            id_to_state,
            id_to_pdf,
            max(id_to_pdf) + 1,
            log_probs.tolist(),
            non_self_loop,
        )
    )
    return model


def _read_binary_topology(source: KaldiSource) -> tuple[dict[int, int], list[list[State]]]:
    """Kaldi: HmmTopology::Read in binary."""
    phones, indices = source.integers(), source.integers()
    count = source.integer()
    is_hmm = count != -1
    entries: list[list[State]] = []
    for _ in range(_checked_size(source, count if is_hmm else source.integer(), "topologies")):
        entry: list[State] = []
        for _ in range(_checked_size(source, source.integer(), "states")):
            forward = source.integer()
            self_loop = forward if is_hmm else source.integer()
            targets = [
                (source.integer(), source.number())
                for _ in range(_checked_size(source, source.integer(), "transitions", least=0))
            ]
            entry.append((forward, self_loop, targets))
        entries.append(entry)
    expect(source, "</Topology>")
    phone_to_entry: dict[int, int] = {}
    for phone in phones:
        if not 0 < phone < len(indices) or not 0 <= indices[phone] < len(entries):
            source.fail(f"phone {phone} has no topology")
        phone_to_entry[phone] = indices[phone]
    return phone_to_entry, entries


def _read_text_topology(source: TextSource) -> tuple[dict[int, int], list[list[State]]]:
    """Kaldi: HmmTopology::Read in text."""
    phone_to_entry: dict[int, int] = {}
    entries: list[list[State]] = []
    while expect(source, "<TopologyEntry>", "</Topology>") != "</Topology>":
        expect(source, "<ForPhones>")
        while (word := source.token()) != "</ForPhones>":
            if not word.isdigit() or int(word) in phone_to_entry:
                source.fail(f"expected a new phone id, found {word[:40]!r}")
            phone_to_entry[int(word)] = len(entries)
        entry: list[State] = []
        while expect(source, "<State>", "</TopologyEntry>") == "<State>":
            if (number := source.integer()) != len(entry):
                source.fail(f"expected state {len(entry)}, found {number}")
            forward = self_loop = NO_PDF
            transitions: list[tuple[int, float]] = []
            while (word := source.token()) != "</State>":
                if word == "<PdfClass>":
                    forward = self_loop = source.integer()
                elif word == "<ForwardPdfClass>":
                    forward = source.integer()
                elif word == "<SelfLoopPdfClass>":
                    self_loop = source.integer()
                elif word == "<Transition>":
                    transitions.append((source.integer(), source.number()))
                else:
                    source.fail(f"expected the end of a state, found {word[:40]!r}")
            entry.append((forward, self_loop, transitions))
        entries.append(entry)
    return phone_to_entry, entries


def _make_topology(
    source: KaldiSource, phone_to_entry: dict[int, int], entries: list[list[State]]
) -> Any:
    """Make a kaldi_hmm_gmm.HmmTopology, through the text that its reader takes."""
    lines = ["<Topology>"]
    for index, entry in enumerate(entries):
        phones = sorted(phone for phone, number in phone_to_entry.items() if number == index)
        lines.append(f"<TopologyEntry>\n<ForPhones>\n{' '.join(map(str, phones))}\n</ForPhones>")
        for number, (forward, self_loop, transitions) in enumerate(entry):
            words = [f"<State> {number}"]
            if forward != self_loop:
                words.append(f"<ForwardPdfClass> {forward} <SelfLoopPdfClass> {self_loop}")
            elif forward != NO_PDF:
                words.append(f"<PdfClass> {forward}")
            for target, probability in transitions:
                if not 0 <= target < len(entry) or not 0 <= probability <= 1.01:
                    source.fail(f"transition to state {target} with probability {probability}")
                words.append(f"<Transition> {target} {probability!r}")
            lines.append(" ".join([*words, "</State>"]))
        lines.append("</TopologyEntry>")
    topology = kaldi_hmm_gmm.HmmTopology()
    try:
        topology.read("\n".join([*lines, "</Topology>\n"]))
    except RuntimeError as error:
        source.fail(f"not a usable topology: {error}")
    return topology


def _read_gmms(source: KaldiSource, num_pdfs: int) -> DiagGmms:
    """Kaldi: AmDiagGmm::Read."""
    expect(source, "<DIMENSION>")
    dim = _checked_size(source, source.integer(), "dimensions")
    expect(source, "<NUMPDFS>")
    if (given := source.integer()) != num_pdfs:
        source.fail(f"{given} pdfs in the GMMs, but {num_pdfs} in the transition model")
    weights, means_inv_vars, inv_vars, gconsts = [], [], [], []
    for pdf in range(num_pdfs):
        expect(source, "<DiagGMM>", "<DiagGMMBegin>")
        if expect(source, "<GCONSTS>", "<WEIGHTS>") == "<GCONSTS>":
            gconsts.append(source.vector())
            expect(source, "<WEIGHTS>")
        weights.append(source.vector())
        shape = (len(weights[-1]), dim)
        expect(source, "<MEANS_INVVARS>")
        means_inv_vars.append(_shaped(source, source.matrix(), shape, pdf))
        expect(source, "<INV_VARS>")
        inv_vars.append(_shaped(source, source.matrix(), shape, pdf))
        expect(source, "</DiagGMM>", "<DiagGMMEnd>")
        if not (
            (weights[-1] >= 0).all()
            and np.isfinite(means_inv_vars[-1]).all()
            and (inv_vars[-1] > 0).all()
            and np.isfinite(inv_vars[-1]).all()
        ):
            source.fail(f"pdf {pdf} has a negative weight or variance, or one that is no number")
    gmms = DiagGmms(
        np.concatenate(weights),
        np.concatenate(means_inv_vars),
        np.concatenate(inv_vars),
        offsets_of([len(values) for values in weights]),
    )
    if np.isnan(gmms.gconsts).any() or np.isposinf(gmms.gconsts).any():
        source.fail("a Gaussian whose likelihood is no number")
    return gmms.with_gconsts(np.concatenate(gconsts)) if gconsts else gmms


def _gmms_to_bytes(gmms: DiagGmms) -> bytes:
    """Kaldi: AmDiagGmm::Write."""
    parts = [encode_token("<DIMENSION>"), encode_integer(gmms.dim)]
    parts += [encode_token("<NUMPDFS>"), encode_integer(gmms.num_pdfs)]
    for start, end in zip(gmms.offsets[:-1], gmms.offsets[1:], strict=True):
        parts += [encode_token("<DiagGMM>"), encode_token("<GCONSTS>")]
        parts += [encode_vector(gmms.gconsts[start:end]), encode_token("<WEIGHTS>")]
        parts += [encode_vector(gmms.weights[start:end]), encode_token("<MEANS_INVVARS>")]
        parts += [encode_matrix(gmms.means_inv_vars[start:end]), encode_token("<INV_VARS>")]
        parts += [encode_matrix(gmms.inv_vars[start:end]), encode_token("</DiagGMM>")]
    return b"".join(parts)


def _shaped(
    source: KaldiSource, matrix: NDArray[np.float32], shape: tuple[int, int], pdf: int
) -> NDArray[np.float32]:
    # A matrix read from text comes flat.
    if matrix.size != shape[0] * shape[1] or matrix.shape not in (shape, (1, matrix.size)):
        source.fail(f"pdf {pdf}: a matrix of shape {matrix.shape}, expected {shape}")
    return matrix.reshape(shape)


def _checked_size(source: KaldiSource, size: int, what: str, *, least: int = 1) -> int:
    if not least <= size <= 1 << 24:
        source.fail(f"{size} {what}")
    return size
