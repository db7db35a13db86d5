"""Kaldi's model and tree files: read, written back, damaged."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from mariana_asr.align.formats.model_io import (
    read_gmm_model,
    read_transition_model,
    read_tree,
    transition_id_to_pdf,
    write_gmm_model,
    write_tree,
)
from mariana_asr.errors import FormatError
from mariana_asr.kaldi import kaldi_hmm_gmm as khg

MODELS = ["mono/final.mdl", "tri1/final.mdl", "tri3/final.mdl", "tri3/final.alimdl"]
TREES = ["mono/tree", "tri1/tree", "tri3/tree"]

TOPOLOGY_WITH_SELF_LOOP_PDFS = """<Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones>
<State> 0 <ForwardPdfClass> 0 <SelfLoopPdfClass> 1 <Transition> 0 0.5 <Transition> 1 0.5 </State>
<State> 1 </State> </TopologyEntry> </Topology>
"""


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_kaldi_is_written_back_byte_for_byte(golden, tmp_path, name):
    file = golden / "an4_kaldi" / name
    model = read_gmm_model(file)
    write_gmm_model(tmp_path / "final.mdl", model)
    assert (tmp_path / "final.mdl").read_bytes() == file.read_bytes()
    assert model.transition_model.num_pdfs == model.gmm.num_pdfs


@pytest.mark.parametrize("name", TREES)
def test_a_tree_of_kaldi_is_written_back_byte_for_byte(golden, tmp_path, name):
    file = golden / "an4_kaldi" / name
    write_tree(tmp_path / "tree", read_tree(file))
    assert (tmp_path / "tree").read_bytes() == file.read_bytes()


def test_a_tree_in_text_form_reads_as_the_binary_one(golden, tmp_path):
    tree = read_tree(golden / "an4_kaldi/tri1/tree")
    (tmp_path / "tree").write_text(str(tree))
    assert str(read_tree(tmp_path / "tree")) == str(tree)


def test_a_transition_model_in_text_form_reads_as_the_binary_one(golden, tmp_path):
    model = read_transition_model(golden / "an4_kaldi/mono/final.mdl")
    (tmp_path / "final.mdl").write_text(str(model))
    again = read_transition_model(tmp_path / "final.mdl")
    assert str(again) == str(model)
    np.testing.assert_allclose(again.log_probs, model.log_probs, rtol=1e-5)


def test_a_gmm_in_text_form_is_read(tmp_path):
    tree = khg.monophone_context_dependency([1, 2], [0, 1, 1])
    topology = khg.HmmTopology()
    topology.read(
        "<Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones> <State> 0 <PdfClass> 0 "
        "<Transition> 0 0.75 <Transition> 1 0.25 </State> <State> 1 </State> </TopologyEntry> "
        "</Topology> "
    )
    text = f"""{khg.TransitionModel(tree, topology)}<DIMENSION> 2 <NUMPDFS> 2 <DiagGMM>
<GCONSTS>  [ 0 0 ]
<WEIGHTS>  [ 0.25 0.75 ]
<MEANS_INVVARS>  [
  1 2
  3 4 ]
<INV_VARS>  [
  1 1
  2 2 ]
</DiagGMM>
<DiagGMM> <WEIGHTS>  [ 1 ]
<MEANS_INVVARS>  [
  5 6 ]
<INV_VARS>  [
  0.5 0.5 ]
</DiagGMM>
"""
    (tmp_path / "final.mdl").write_text(text)
    gmm = read_gmm_model(tmp_path / "final.mdl").gmm
    assert gmm.counts.tolist() == [2, 1]
    assert gmm.means.tolist() == [[1, 2], [1.5, 2], [10, 12]]


def test_derived_tables_equal_those_kaldi_builds(golden):
    """Rebuild the model from its tree and topology by Kaldi's own constructor."""
    model = read_transition_model(golden / "an4_kaldi/tri1/final.mdl")
    built = khg.TransitionModel(read_tree(golden / "an4_kaldi/tri1/tree"), model.topo)
    assert list(built.state2id) == list(model.state2id)
    assert list(built.id2state) == list(model.id2state)
    assert list(built.id2pdf_id) == list(model.id2pdf_id)
    assert built.tuples == model.tuples
    assert transition_id_to_pdf(model)[1:].tolist() == [
        model.transition_id_to_pdf(i) for i in range(1, model.num_transition_ids + 1)
    ]


def test_self_loops_with_pdfs_of_their_own_survive(tmp_path):
    topology = khg.HmmTopology()
    topology.read(TOPOLOGY_WITH_SELF_LOOP_PDFS)
    model = khg.TransitionModel(khg.monophone_context_dependency([1, 2], [0, 2, 2]), topology)
    (tmp_path / "text").write_text(str(model))
    again = read_transition_model(tmp_path / "text")
    assert str(again) == str(model)
    assert list(again.id2pdf_id) == list(model.id2pdf_id)


def test_non_self_loop_probabilities_are_rebuilt(golden):
    """Kaldi leaves them out of the file; its own class gives them for a fresh model."""
    model = read_transition_model(golden / "an4_kaldi/mono/final.mdl")
    stats = model.init_stats()
    # An update without counts changes no probability, but makes Kaldi derive its tables anew.
    before = list(model.non_self_loop_log_probs)
    model.mle_update(stats, khg.MleTransitionUpdateConfig())
    np.testing.assert_allclose(before, model.non_self_loop_log_probs, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "read"), [("mono/final.mdl", read_gmm_model), ("tri1/tree", read_tree)]
)
def test_a_file_that_is_cut_short_is_an_error_with_its_place(golden, tmp_path, name, read):
    content = (golden / "an4_kaldi" / name).read_bytes()
    numbers = random.Random(3)
    for size in [0, 1, 2, 3, 20, *(numbers.randrange(len(content)) for _ in range(40))]:
        (tmp_path / "file").write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"at (byte|word) \d+"):
            read(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "read"), [("mono/final.mdl", read_gmm_model), ("mono/tree", read_tree)]
)
def test_a_damaged_byte_is_an_error_or_another_value_but_never_a_crash(
    golden, tmp_path, name, read
):
    content = (golden / "an4_kaldi" / name).read_bytes()
    numbers = random.Random(4)
    for _ in range(150):
        damaged = bytearray(content)
        damaged[numbers.randrange(3000)] = numbers.randrange(256)
        (tmp_path / "file").write_bytes(damaged)
        with contextlib.suppress(FormatError):
            read(tmp_path / "file")


def test_other_files_are_no_models(tmp_path):
    for content, message in [
        (b"\xff\xfe\x00", "neither"),
        (b"hello world", "expected <TransitionModel>, found 'hello'"),
        (b"\0Bhello world", "expected <TransitionModel>, found 'hello'"),
    ]:
        (tmp_path / "final.mdl").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            read_gmm_model(tmp_path / "final.mdl")
    with pytest.raises(FormatError, match="no such file"):
        read_tree(tmp_path / "none")
    with pytest.raises(FormatError, match="directory"):
        read_tree(Path(tmp_path))


def test_gmms_that_do_not_fit_the_transition_model_are_refused(golden, tmp_path):
    mono = (golden / "an4_kaldi/mono/final.mdl").read_bytes()
    tri = (golden / "an4_kaldi/tri1/final.mdl").read_bytes()
    cut = b"<DIMENSION>"
    (tmp_path / "mixed").write_bytes(mono[: mono.index(cut)] + tri[tri.index(cut) :])
    with pytest.raises(FormatError, match="480 pdfs in the GMMs, but 104 in the transition model"):
        read_gmm_model(tmp_path / "mixed")
