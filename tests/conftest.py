"""What tests share: where the real corpora and Kaldi's reference outputs are."""

import os
from pathlib import Path

import pytest


def _folder_from(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{variable} does not name a folder: no reference data on this machine")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of the real corpora (an4, fsdd, aishell)."""
    return _folder_from("MARIANA_CORPORA")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of what Kaldi computed on the corpora."""
    return _folder_from("MARIANA_GOLDEN")
