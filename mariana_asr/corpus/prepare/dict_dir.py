"""Writing a pronunciation dictionary in the form that Kaldi's recipes keep in local/dict."""

from collections.abc import Sequence
from pathlib import Path

from mariana_asr.files import write_text

SILENCE_PHONE = "SIL"
"""The one silence phone of the prepared corpora; also their optional silence."""

UNKNOWN_WORD = "<UNK>"
"""What a word outside of the dictionary becomes; it is pronounced as silence."""


def write_dict_dir(
    path: Path, lexicon: Sequence[tuple[str, Sequence[str]]], nonsilence_phones: Sequence[str]
) -> None:
    """Write lexicon.txt, the phone lists and an empty extra_questions.txt.

    Args:
        path: The directory to write.
        lexicon: Words and their phones, a pair for each pronunciation. The unknown word is
            added, pronounced as silence, since no phone of these small corpora stands for
            arbitrary speech.
        nonsilence_phones: The phones other than silence.
    """
    lines = {f"{word} {' '.join(phones)}" for word, phones in lexicon}
    lines.add(f"{UNKNOWN_WORD} {SILENCE_PHONE}")
    _write_lines(path / "lexicon.txt", sorted(lines))
    _write_lines(path / "nonsilence_phones.txt", sorted(nonsilence_phones))
    _write_lines(path / "silence_phones.txt", [SILENCE_PHONE])
    _write_lines(path / "optional_silence.txt", [SILENCE_PHONE])
    _write_lines(path / "extra_questions.txt", [])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
