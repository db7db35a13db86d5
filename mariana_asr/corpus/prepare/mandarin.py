"""What the preparers of Mandarin corpora share: data directories and a dictionary."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mariana_asr.corpus.audio import open_audio_info
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.prepare.dict_dir import (
    SILENCE_PHONE,
    SPOKEN_NOISE_PHONE,
    write_dict_dir,
)
from mariana_asr.corpus.prepare.mandarin_pronunciation import group_by_tone, pronounce
from mariana_asr.corpus.prepare.mandarin_words import MandarinOptions, Vocabulary, is_chinese_word
from mariana_asr.errors import DataError
from mariana_asr.files import write_text
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

RATE = 16000
"""Sample rate of the recordings in Hz."""


@dataclass(frozen=True)
class Recording:
    """A recorded utterance; ``transcript`` is as it was published, None where there is none."""

    utterance: str
    speaker: str
    file: Path
    transcript: str | None


def prepare_mandarin(
    corpus: str, sets: Mapping[str, Sequence[Recording]], options: MandarinOptions, out: Path
) -> None:
    """Write a data directory for each set, and ``dict``.

    The lexicon has the most frequent words of jieba's dictionary and the characters of the
    training transcripts; no other transcript adds to it. Words outside of it are listed in
    ``unknown_words.txt`` of each set with their counts. An utterance without a transcript or a
    readable 16 kHz recording is left out and listed in ``skipped.txt`` of its set.

    Args:
        corpus: Name of the corpus, for messages.
        sets: The recordings of each set; those of ``train`` are the training set.
        options: What the words are.
        out: The folder to write to.

    Raises:
        MissingPackageError: jieba or pypinyin is not installed.
        StageError: A set has no usable utterance.
    """
    vocabulary = Vocabulary(options)
    vocabulary.add_characters(r.transcript for r in sets["train"] if r.transcript is not None)
    lexicon = make_lexicon(vocabulary.counts)
    known = {word for word, _ in lexicon}
    for name, recordings in sets.items():
        data = _read_set(f"the {name} set of {corpus}", recordings, vocabulary, out / name)
        data.write()
        _report_unknown(data, known)
    write_mandarin_dictionary(out / "dict", lexicon, vocabulary.counts)


def make_lexicon(words: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Pair words with their pronunciations; words that pypinyin cannot read are left out."""
    return [(word, phones) for word in words for phones in pronounce(word)]


def write_mandarin_dictionary(
    path: Path, lexicon: Sequence[tuple[str, Sequence[str]]], counts: Mapping[str, int]
) -> None:
    """Write a dict directory with ``word_counts.txt``.

    All tones of a final share a root of the decision tree, which may ask about tones, as in
    Kaldi's egs/aishell. The unknown word is said as spoken noise, since foreign names and
    letters are speech.

    Args:
        path: The directory to write.
        lexicon: Words and their phones, a pair for each pronunciation.
        counts: Counts of words in a large text, from which a language model can tell how likely
            those are that it never saw in transcripts.
    """
    roots, tones = group_by_tone(phone for _, phones in lexicon for phone in phones)
    write_dict_dir(
        path,
        lexicon,
        [" ".join(phones) for phones in roots],
        extra_questions=[
            " ".join(phones) for phones in ([SILENCE_PHONE, SPOKEN_NOISE_PHONE], *tones)
        ],
        unknown_phone=SPOKEN_NOISE_PHONE,
    )
    known = sorted({word for word, _ in lexicon})
    write_text(path / "word_counts.txt", "".join(f"{word} {counts[word]}\n" for word in known))


def _read_set(
    what: str, recordings: Sequence[Recording], vocabulary: Vocabulary, path: Path
) -> DataDir:
    skipped = Skipped(f"preparing {what}")
    data = DataDir(path=path, utt2spk={})
    for recording in recordings:
        words = vocabulary.cut(recording.transcript or "")
        problem = None if words else "no transcript"
        problem = problem or _problem_of(recording.file)
        if problem:
            skipped.add(recording.utterance, problem)
            continue
        data.utt2spk[recording.utterance] = recording.speaker
        data.text[recording.utterance] = " ".join(words)
        data.wav[recording.utterance] = str(recording.file)
    skipped.finish(path / "skipped.txt", len(data.utt2spk))
    return data


def _problem_of(file: Path) -> str | None:
    """What is wrong with a recording, None if nothing is."""
    try:
        rate, _, channels = open_audio_info(file)
    except DataError as error:
        return str(error)
    if (rate, channels) != (RATE, 1):
        return f"{file}: {rate} Hz and {channels} channels, not {RATE} Hz mono"
    return None


def _report_unknown(data: DataDir, known: set[str]) -> None:
    spoken = Counter(word for text in data.text.values() for word in text.split())
    unknown = Counter({word: count for word, count in spoken.items() if word not in known})
    lines = [f"{word} {count}\n" for word, count in unknown.most_common()]
    write_text(data.path / "unknown_words.txt", "".join(lines))
    chinese = sum(count for word, count in unknown.items() if is_chinese_word(word))
    logger.info(
        "%s: %d of %d words are not in the lexicon (%.2f%%), %d of them Chinese; they are in %s",
        data.path,
        unknown.total(),
        spoken.total(),
        100.0 * unknown.total() / spoken.total(),
        chinese,
        data.path / "unknown_words.txt",
    )
