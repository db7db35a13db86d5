"""Kaldi's triphone systems of AN4, loaded as Kaldi left them, against Kaldi's own alignments."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from an4_speech import write_an4

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.transition_ids import alignment_to_pdfs, read_alignments
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError
from mariana_asr.features.linear import read_speaker_transforms
from mariana_asr.lang.langdir import read_lang

LEAST_ALIKE = 0.995
"""Part of all frames with Kaldi's pdf. Kaldi's features had dither, and its last alignment was
some iterations before the last model, so not all can be alike."""

Share = Callable[[DataDir, str], float]


@pytest.fixture
def share_of_kaldis_pdfs(golden: Path, tmp_path: Path) -> Share:
    """Align with a model of Kaldi's; how many frames have the pdf that they have in Kaldi's."""
    kaldi = golden / "an4_kaldi"

    def share(data: DataDir, system: str, **options: object) -> float:
        summary = align(
            data, read_lang(kaldi / "lang"), kaldi / system, tmp_path, jobs=2, **options
        )
        assert (summary.utterances, summary.skipped) == (len(data.utt2spk), 0)
        transition_model = read_transition_model(kaldi / system / "final.mdl")
        ours = read_alignments(tmp_path)
        same = []
        with gzip.open(kaldi / system / "train_pdf.txt.gz", "rt") as file:
            for line in file:
                utterance, *pdfs = line.split()
                if utterance in ours:
                    expected = np.array(pdfs, dtype=np.int32)
                    same.append(alignment_to_pdfs(ours[utterance], transition_model) == expected)
        assert len(same) == summary.utterances
        return float(np.concatenate(same).mean())

    return share


@pytest.fixture(scope="module")
def whole_an4(corpora: Path, tmp_path_factory) -> DataDir:
    return write_an4(corpora, tmp_path_factory.mktemp("whole_an4"))


def test_triphones_on_deltas_give_kaldis_alignments(an4, share_of_kaldis_pdfs):
    assert share_of_kaldis_pdfs(an4, "tri1") >= LEAST_ALIKE


def test_adapted_triphones_give_kaldis_alignments_with_kaldis_transforms(
    an4, golden, share_of_kaldis_pdfs
):
    transforms = read_speaker_transforms(golden / "an4_kaldi/tri3")
    assert share_of_kaldis_pdfs(an4, "tri3", transforms=transforms) >= LEAST_ALIKE


def test_adapted_triphones_give_kaldis_alignments_in_two_passes(
    an4, share_of_kaldis_pdfs, golden, tmp_path
):
    assert share_of_kaldis_pdfs(an4, "tri3") >= LEAST_ALIKE
    assert (tmp_path / "unadapted.txt").read_text() == ""
    # What was written is a system of its own, and its transforms are those that were used.
    few = an4.subset([u for u, speaker in an4.utt2spk.items() if speaker in ("fash", "fejs")])
    lang = read_lang(golden / "an4_kaldi/lang")
    align(few, lang, tmp_path, tmp_path / "again", transforms=read_speaker_transforms(tmp_path))
    first, again = read_alignments(tmp_path), read_alignments(tmp_path / "again")
    assert again.keys() == few.utt2spk.keys()
    assert all(np.array_equal(first[utterance], again[utterance]) for utterance in again)


def test_a_lang_directory_of_other_phones_is_refused(an4, made, golden, tmp_path):
    """Kaldi's scripts leave phones.txt beside a model; without it their numbers tell."""
    expected = r"final\.mdl: the model has other phones than .*: 137, with ids up to 137, not 6 up"
    with pytest.raises(FormatError, match=expected):
        align(an4, made.lang, golden / "an4_kaldi/tri1", tmp_path)


@pytest.mark.recipes
@pytest.mark.parametrize(("system", "known"), [("tri1", False), ("tri3", False), ("tri3", True)])
def test_all_of_the_training_set_is_aligned_as_kaldi_aligned_it(
    whole_an4, golden, share_of_kaldis_pdfs, system, known
):
    transforms = read_speaker_transforms(golden / "an4_kaldi" / system) if known else None
    assert share_of_kaldis_pdfs(whole_an4, system, transforms=transforms) >= LEAST_ALIKE
