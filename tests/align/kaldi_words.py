"""Words of Kaldi's alignments of AN4, found without their pronunciations."""

from pathlib import Path

from mariana_asr.align.output.segments import PhoneSegment
from mariana_asr.lang.langdir import Lang


def an4_transcripts(corpora: Path) -> dict[str, str]:
    """AN4's training transcripts by the golden alignments' utterance ids."""
    text = {}
    for line in (corpora / "an4/etc/an4_train.transcription").read_text().splitlines():
        words, name = line.rstrip(")").rsplit("(", 1)
        name, speaker, take = name.split("-")
        said = [word for word in words.split() if word not in ("<s>", "</s>")]
        text[f"{speaker}-{name}-{take}"] = " ".join(said)
    return text


def by_word_boundary(phones: list[PhoneSegment], lang: Lang) -> list[tuple[int, int, bool]]:
    """Start, frames and whether it is silence, by the phones' positions in the word."""
    assert lang.word_boundary is not None
    cut, start = [], None
    for segment in phones:
        place = lang.word_boundary[segment.phone]
        end = segment.start + segment.frames
        if place in ("nonword", "singleton"):
            assert start is None
            cut.append((segment.start, segment.frames, place == "nonword"))
        elif place == "begin":
            assert start is None
            start = segment.start
        elif place == "end":
            assert start is not None
            cut.append((start, end - start, False))
            start = None
        else:
            assert place == "internal"
            assert start is not None
    return cut
