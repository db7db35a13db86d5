"""Pdfs grouped by phone, of Kaldi's own triphone model of AN4."""

import re
import shutil

import pytest

from mariana_asr.align.formats.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.align.pdf_groups import pdf_groups
from mariana_asr.errors import FormatError
from mariana_asr.lang.langdir import read_symbol_table


@pytest.fixture
def model_dir(golden, tmp_path):
    shutil.copy(golden / "an4_kaldi/tri1/final.mdl", tmp_path)
    shutil.copy(golden / "an4_kaldi/lang/phones.txt", tmp_path)
    return tmp_path


def test_a_group_holds_the_pdfs_of_a_phone_wherever_it_stands_in_a_word(model_dir):
    groups = pdf_groups(model_dir)
    model = read_transition_model(model_dir / "final.mdl")
    pdfs = transition_id_to_pdf(model)
    names = {number: name for name, number in read_symbol_table(model_dir / "phones.txt").items()}
    found: dict[str, set[int]] = {}
    for transition_id in range(1, model.num_transition_ids + 1):
        name = re.sub("_[BIES]$", "", names[model.transition_id_to_phone(transition_id)])
        found.setdefault(name, set()).add(int(groups[pdfs[transition_id]]))
    # SIL alone is silence in AN4; each phone of the dictionary has a group, and no two have one.
    assert all(len(numbers) == 1 for numbers in found.values())
    assert sorted(group for numbers in found.values() for group in numbers) == list(
        range(len(found))
    )
    assert len(groups) == model.num_pdfs


def test_tones_and_stresses_of_a_phone_are_one_group(model_dir):
    # AA and AE become two tones of one phone.
    table = (model_dir / "phones.txt").read_text()
    (model_dir / "phones.txt").write_text(re.sub("^AE(_.)?", r"AA2\1", table, flags=re.MULTILINE))
    before = pdf_groups(model_dir).max()
    (model_dir / "phones.txt").write_text(table)
    assert before + 1 == pdf_groups(model_dir).max()


def test_a_phone_without_a_name_is_an_error(model_dir):
    lines = (model_dir / "phones.txt").read_text().splitlines(keepends=True)
    (model_dir / "phones.txt").write_text("".join(x for x in lines if not x.startswith("AA_B ")))
    with pytest.raises(FormatError, match=r"phones.txt: phone \d+ has no name"):
        pdf_groups(model_dir)
