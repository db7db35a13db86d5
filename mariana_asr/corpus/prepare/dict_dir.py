"""Writing a pronunciation dictionary in the form that Kaldi's recipes keep in local/dict."""

from collections.abc import Sequence
from pathlib import Path

from mariana_asr.files import write_text

SILENCE_PHONE = "SIL"
"""The silence phone of the prepared corpora; also their optional silence."""

SPOKEN_NOISE_PHONE = "SPN"
"""A phone for speech of which the lexicon does not know how it is said."""

UNKNOWN_WORD = "<UNK>"
"""What a word outside of the dictionary becomes."""


def write_dict_dir(
    path: Path,
    lexicon: Sequence[tuple[str, Sequence[str]]],
    nonsilence_phones: Sequence[str],
    *,
    extra_questions: Sequence[str] = (),
    unknown_phone: str = SILENCE_PHONE,
) -> None:
    """Write lexicon.txt, the phone lists and extra_questions.txt.

    Args:
        path: The directory to write.
        lexicon: Words and their phones, a pair for each pronunciation.
        nonsilence_phones: The phones other than silence, or lines of those that are to share a
            root of the decision tree.
        extra_questions: Lines of phones that the tree may ask about together.
        unknown_phone: How the unknown word, which is added, is pronounced: as silence where no
            phone of a small corpus stands for arbitrary speech.
    """
    silence = sorted({SILENCE_PHONE, unknown_phone})
    lines = {f"{word} {' '.join(phones)}" for word, phones in lexicon}
    lines.add(f"{UNKNOWN_WORD} {unknown_phone}")
    _write_lines(path / "lexicon.txt", sorted(lines))
    _write_lines(path / "nonsilence_phones.txt", sorted(nonsilence_phones))
    _write_lines(path / "silence_phones.txt", silence)
    _write_lines(path / "optional_silence.txt", [SILENCE_PHONE])
    _write_lines(path / "extra_questions.txt", extra_questions)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))
