"""Decoding with speaker-adapted models, against what Kaldi's steps/decode_fmllr.sh recognised."""

import gzip
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import kaldialign
import numpy as np
import pytest
from golden_models import copy_model

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.archives import ArchiveWriter, read_script
from mariana_asr.corpus.datadir import DataDir, read_table
from mariana_asr.decode.decoder import decode, hypothesis_file
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.scorers import is_speaker_adapted, load_scorer
from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import read_matrix_file, read_speaker_transforms
from mariana_asr.features.reading import read_raw_features
from mariana_asr.kaldi import kaldifst

KALDIS_BEAMS = DecodeOptions(first_beam=16.0, beam=20.0, lattice_beam=10.0)
KALDIS_SETTING = (16.0, 0.0)
NARROW = DecodeOptions(
    first_beam=9.0,
    beam=9.0,
    lattice_beam=4.0,
    lm_weights=(12.0, 16.0),
    word_insertion_penalties=(0.0,),
)


@pytest.fixture(scope="module")
def tri3(golden: Path, tmp_path_factory) -> Path:
    """Kaldi's speaker-adapted model with its graph."""
    source = golden / "an4_kaldi"
    model = copy_model(source, "tri3", tmp_path_factory.mktemp("tri3"))
    matrix = read_matrix_file(source / "tri3" / "final.mat")
    FrontEnd(None, 13, TransformOptions(splice_left=4, splice_right=4), matrix).save(model)
    return model


@pytest.fixture(scope="module")
def kaldis(golden: Path) -> dict[str, str]:
    """What Kaldi recognised."""
    return read_table(golden / "an4_kaldi" / "tri3" / "test_hyp.txt")


def of_speakers(data: DataDir, *speakers: str) -> DataDir:
    return data.subset([u for u, speaker in data.utt2spk.items() if speaker in speakers])


def number_alike(out: Path, kaldis: dict[str, str]) -> int:
    ours = read_table(hypothesis_file(out, *KALDIS_SETTING))
    return sum(kaldis[utterance] == words for utterance, words in ours.items())


def fewest_errors(data: DataDir, out: Path) -> int:
    """As Kaldi's scripts score: with the best of LM weights 7 to 17 and three penalties."""
    errors = []
    for weight, penalty in DecodeOptions().settings:
        if weight >= 7:
            hypotheses = read_table(hypothesis_file(out, weight, penalty))
            errors.append(
                sum(
                    kaldialign.edit_distance(words.split(), hypotheses[utterance].split())["total"]
                    for utterance, words in data.text.items()
                )
            )
    return min(errors)


def test_speakers_have_kaldis_hypotheses_after_adaptation(an4_test, tri3, kaldis, tmp_path: Path):
    data = of_speakers(an4_test, "menk", "mmxg")
    summary = decode(data, tri3, tri3, tmp_path / "adapted", KALDIS_BEAMS)
    assert (summary.decoded, summary.speakers, summary.unadapted) == (26, 2, 0)
    assert number_alike(tmp_path / "adapted", kaldis) == 26
    unadapted = NARROW.model_copy(update={"adapt": False})
    assert decode(data, tri3, tri3, tmp_path / "first", unadapted).speakers == 0
    assert number_alike(tmp_path / "first", kaldis) < 22


@pytest.mark.recipes
def test_kaldis_adapted_model_has_kaldis_word_error_rates(an4_test, tri3, kaldis, tmp_path: Path):
    decode(an4_test, tri3, tri3, tmp_path / "adapted", KALDIS_BEAMS, jobs=2)
    # Kaldi: 49 of 773 errors, and 68 in the first pass.
    assert 100 * fewest_errors(an4_test, tmp_path / "adapted") / 773 == pytest.approx(6.34, abs=0.4)
    assert number_alike(tmp_path / "adapted", kaldis) >= 127
    first_pass = KALDIS_BEAMS.model_copy(update={"adapt": False, "beam": 16.0})
    decode(an4_test, tri3, tri3, tmp_path / "first", first_pass, jobs=2)
    assert 100 * fewest_errors(an4_test, tmp_path / "first") / 773 == pytest.approx(8.80, abs=0.4)


def test_lattices_are_scored_with_the_transforms_that_are_written(an4_test, tri3, tmp_path: Path):
    data = of_speakers(an4_test, "fjlp").subset(["fjlp-cen3-b", "fjlp-cen5-b", "fjlp-cen7-b"])
    options = NARROW.model_copy(update={"write_lattices": True, "fmllr_min_count": 100.0})
    decode(data, tri3, tri3, tmp_path, options)
    transforms = read_speaker_transforms(tmp_path)
    assert list(transforms) == ["fjlp"]
    assert np.abs(transforms["fjlp"] - np.eye(40, 41)).max() > 0.1

    model = read_gmm_model(tri3 / "final.mdl")
    pdfs = transition_id_to_pdf(model.transition_model)
    words = {int(n): word for word, n in read_table(tri3 / "words.txt").items()}
    hypotheses = read_table(hypothesis_file(tmp_path, 12.0, 0.0))
    archive = gzip.decompress((tmp_path / "lat.1.gz").read_bytes())
    for utterance in data.utterances:
        start = archive.index(f"{utterance} ".encode()) + len(utterance) + 1
        (tmp_path / "lattice").write_bytes(archive[start:])
        lattice = kaldifst.Lattice.read(str(tmp_path / "lattice"))
        kaldifst.scale_lattice(kaldifst.lattice_scale(1.0, 1 / 12), lattice)
        best = kaldifst.shortest_path(lattice)
        _, tids, ids, cost = kaldifst.get_linear_symbol_sequence(best)
        # O and OH sound alike and are as likely here: either may win.
        found = " ".join(words[i] for i in ids)
        assert found.replace("OH", "O") == hypotheses[utterance].replace("OH", "O")
        feats = FrontEnd.load(tri3).read(data, utterance) @ transforms["fjlp"][:, :40].T
        feats += transforms["fjlp"][:, 40]
        scores = model.gmm.log_likelihoods(feats)
        acoustic = -scores[np.arange(len(feats)), pdfs[tids]].sum() / 12
        assert cost.value2 == pytest.approx(acoustic, rel=1e-4)


@pytest.fixture
def mixed(an4_test: DataDir, tmp_path: Path) -> DataDir:
    """Two speakers whose utterances do not stand together; one utterance has a NaN."""
    names = ["fjlp-cen3-b", "mjgm-cen3-b", "fjlp-cen5-b", "fjlp-cen7-b", "mjgm-cen5-b"]
    new_names = {f"{number}": name for number, name in enumerate(names)}
    with ArchiveWriter(tmp_path / "mixed" / "feats") as writer:
        for new, name in new_names.items():
            feats = read_raw_features(an4_test, name).copy()
            feats[7, 3] = np.nan if new == "2" else feats[7, 3]
            writer.write(new, feats)
    data = DataDir(
        tmp_path / "mixed",
        {new: name.split("-")[0] for new, name in new_names.items()},
        text={new: an4_test.text[name] for new, name in new_names.items()},
        feats=read_script(tmp_path / "mixed" / "feats.scp"),
        cmvn={s: an4_test.cmvn[s] for s in ("fjlp", "mjgm")},
    )
    data.write()
    return data


def test_a_bad_utterance_is_skipped_and_results_keep_their_order(mixed, tri3, tmp_path, caplog):
    # Without its bad utterance fjlp has 300 weighted frames; mjgm has 325.
    options = NARROW.model_copy(update={"fmllr_min_count": 310.0})
    with caplog.at_level(logging.WARNING):
        summary = decode(mixed, tri3, tri3, tmp_path, options)
    assert (summary.decoded, summary.skipped, summary.speakers, summary.unadapted) == (4, 1, 2, 1)
    hypotheses = read_table(hypothesis_file(tmp_path, 16.0, 0.0))
    assert list(hypotheses) == list("01234")
    assert [bool(words) for words in hypotheses.values()] == [True, True, False, True, True]
    assert "NaN" in read_table(tmp_path / "skipped.txt")["2"]

    listed = read_table(tmp_path / "unadapted.txt")
    assert listed == {"fjlp": "300 frames, of more than 310 wanted"}
    assert "1 of 2 speakers are not adapted (fjlp)" in caplog.text
    transforms = read_speaker_transforms(tmp_path)
    np.testing.assert_array_equal(transforms["fjlp"], np.eye(40, 41))
    assert np.abs(transforms["mjgm"] - np.eye(40, 41)).max() > 0.1
    assert not (tmp_path / "lattices.tmp").exists()


def test_a_bad_utterance_has_no_part_in_its_speakers_transform(mixed, tri3, tmp_path: Path):
    options = NARROW.model_copy(update={"fmllr_min_count": 100.0})
    decode(mixed, tri3, tri3, tmp_path / "all", options)
    decode(mixed.subset(["0", "3"]), tri3, tri3, tmp_path / "good", options)
    transforms = read_speaker_transforms(tmp_path / "all")
    assert np.abs(transforms["fjlp"] - np.eye(40, 41)).max() > 0.1
    np.testing.assert_array_equal(
        read_speaker_transforms(tmp_path / "good")["fjlp"], transforms["fjlp"]
    )
    hypotheses = read_table(hypothesis_file(tmp_path / "all", 16.0, 0.0))
    alone = read_table(hypothesis_file(tmp_path / "good", 16.0, 0.0))
    assert alone == {"0": hypotheses["0"], "3": hypotheses["3"]}


def test_processes_take_speakers_and_change_no_result(mixed, tri3, tmp_path: Path):
    options = NARROW.model_copy(update={"fmllr_min_count": 100.0, "write_lattices": True})
    for jobs in (1, 2):
        decode(mixed, tri3, tri3, tmp_path / f"{jobs}", options, jobs=jobs)
    for name in ("hyp/16_0.txt", "hyp/12_0.txt", "trans.1", "skipped.txt"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    one, two = (gzip.decompress((tmp_path / n / "lat.1.gz").read_bytes()) for n in "12")
    assert one == two


def test_a_speaker_with_nothing_usable_is_listed(mixed, tri3, tmp_path: Path):
    speakers = mixed.utt2spk | {"2": "nobody"}
    data = replace(mixed, utt2spk=speakers, cmvn=mixed.cmvn | {"nobody": mixed.cmvn["fjlp"]})
    summary = decode(data, tri3, tri3, tmp_path / "out", NARROW)
    assert (summary.decoded, summary.skipped, summary.unadapted) == (4, 1, 3)
    assert read_table(tmp_path / "out" / "unadapted.txt")["nobody"].startswith("0 frames")


def test_without_adaptation_nothing_is_left_of_an_earlier_one(mixed, tri3, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("trans.1", "unadapted.txt"):
        (out / name).write_text("of another decoding")
    decode(mixed.subset(["0"]), tri3, tri3, out, NARROW.model_copy(update={"adapt": False}))
    assert sorted(path.name for path in out.iterdir()) == [
        "decode.json",
        "hyp",
        "partial.txt",
        "skipped.txt",
    ]
    assert json.loads((out / "decode.json").read_text())["speakers"] == 0


def test_first_passes_are_scored_with_the_unadapted_model(tri3):
    frame = np.zeros((1, 40), dtype=np.float32)
    expected = read_gmm_model(tri3 / "final.alimdl").gmm.log_likelihoods(frame)
    np.testing.assert_array_equal(load_scorer(tri3).log_likelihoods(frame), expected)
    other = read_gmm_model(tri3 / "final.mdl").gmm.log_likelihoods(frame)
    assert not np.allclose(expected, other)


def test_a_network_is_not_taken_for_an_adapted_model(tri3, tmp_path: Path):
    shutil.copyfile(tri3 / "final.alimdl", tmp_path / "final.alimdl")
    assert is_speaker_adapted(tmp_path)
    (tmp_path / "nnet.pt").touch()
    assert not is_speaker_adapted(tmp_path)


def test_a_graph_that_does_not_say_what_silence_is_is_refused(mixed, tri3, tmp_path: Path):
    shutil.copytree(tri3, tmp_path / "graph")
    (tmp_path / "graph" / "phones" / "silence.csl").unlink()
    with pytest.raises(FormatError, match=r"silence.csl: no such file.*Copy it from the lang"):
        decode(mixed, tri3, tmp_path / "graph", tmp_path / "out", NARROW)
    (tmp_path / "graph" / "phones" / "silence.csl").write_text("SIL\n")
    with pytest.raises(FormatError, match="expected phone ids joined by colons"):
        decode(mixed, tri3, tmp_path / "graph", tmp_path / "out", NARROW)
    assert not (tmp_path / "out").exists()


def test_an_unadapted_model_of_another_training_is_refused(mixed, golden, tri3, tmp_path: Path):
    shutil.copytree(tri3, tmp_path / "model")
    shutil.copyfile(golden / "an4_kaldi/tri1/final.mdl", tmp_path / "model" / "final.alimdl")
    with pytest.raises(FormatError, match=r"final.alimdl: it has other dimensions, pdfs or"):
        decode(mixed, tmp_path / "model", tri3, tmp_path / "out", NARROW)
