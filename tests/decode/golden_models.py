"""Kaldi's models as folders that can be written to."""

import shutil
from pathlib import Path


def copy_model(source: Path, name: str, folder: Path) -> Path:
    """Copy a model of Kaldi's AN4 recipe with its graph, words and lists of phones."""
    for file in ("final.mdl", "final.alimdl", "HCLG.fst"):
        if (source / name / file).exists():
            shutil.copyfile(source / name / file, folder / file)
    shutil.copyfile(source / "lang" / "words.txt", folder / "words.txt")
    (folder / "phones").mkdir()
    shutil.copyfile(source / "lang/phones/silence.csl", folder / "phones/silence.csl")
    return folder
