"""What the words of Mandarin are, which is written without spaces, and cutting text into them."""

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from mariana_asr.corpus.prepare.mandarin_pronunciation import HAN, missing_package
from mariana_asr.options import Options

_TOKEN = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")
_CHINESE = re.compile(rf"[{HAN}]+")


class MandarinOptions(Options):
    """What the words of a Mandarin corpus are, and which of them its lexicon has."""

    words: Literal["characters", "jieba"] = "characters"
    """``characters``: each character is a word. ``jieba``: transcripts are cut into words of
    jieba's dictionary. The character error rate does not depend on where words end."""
    lexicon_size: int = Field(default=5000, ge=0)
    """How many of the most frequent characters of jieba's dictionary the lexicon has besides
    those of the training transcripts."""
    lexicon_words: int = Field(default=100000, ge=1)
    """With ``words: jieba``: how many of the most frequent words of two and more characters of
    jieba's dictionary the lexicon has besides characters."""


class Vocabulary:
    """The words of a lexicon, chosen by their frequency in jieba's dictionary.

    Attributes:
        counts: Word to how often it came in the text that jieba's dictionary was counted on; 0
            where that dictionary does not have it.
    """

    def __init__(self, options: MandarinOptions) -> None:
        """Take as many words as the options say; training texts may add characters to them.

        Raises:
            MissingPackageError: jieba is not installed.
        """
        words = _dictionary_frequencies()
        characters = _character_frequencies()
        self._by_jieba = options.words == "jieba"
        # Where words are cut, a character counts as often as it is a word of its own.
        self._frequencies = words if self._by_jieba else characters
        self._tokenizer: Any = None
        self.counts: dict[str, int] = {}
        self.add_characters(
            character for character, _ in characters.most_common(options.lexicon_size)
        )
        if self._by_jieba:
            longer = Counter({word: count for word, count in words.items() if len(word) > 1})
            self.counts.update(longer.most_common(options.lexicon_words))
            # What is no word of the lexicon is spelled with characters.
            self.add_characters(list(self.counts))

    def add_characters(self, texts: Iterable[str]) -> None:
        """Make all Chinese characters of some texts words of their own."""
        for text in texts:
            for character in "".join(_CHINESE.findall(text)):
                self.counts.setdefault(character, self._frequencies[character])
        self._tokenizer = None

    def cut(self, text: str) -> list[str]:
        """Cut a transcript into words.

        Punctuation is not spoken and left out. Full-width forms become ordinary ones; other
        letters and digits become capitals, an unbroken run of them a word. Spaces between
        Chinese characters mean nothing. With ``words: jieba`` the cut is into words of this
        vocabulary, or characters that it lacks.
        """
        tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).upper())
        if not self._by_jieba:
            return tokens
        words: list[str] = []
        for is_chinese, run in groupby(tokens, key=is_chinese_word):
            together = list(run)
            if is_chinese:
                # jieba's hidden Markov model is not used: it makes words that no lexicon has.
                together = self._cutter().lcut("".join(together), HMM=False)
            words += together
        return words

    def _cutter(self) -> Any:
        """A tokenizer that knows the words of this vocabulary only."""
        if self._tokenizer is None:
            tokenizer = _jieba().Tokenizer()
            lines = "".join(f"{word} {max(count, 1)}\n" for word, count in self.counts.items())
            # What its initialize() does, without leaving a copy in the folder of temporary files.
            tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(io.BytesIO(lines.encode()))
            tokenizer.initialized = True
            self._tokenizer = tokenizer
        return self._tokenizer


def is_chinese_word(word: str) -> bool:
    """Whether a word is made of Chinese characters alone."""
    return _CHINESE.fullmatch(word) is not None


@cache
def _dictionary_frequencies() -> Counter[str]:
    """The words of jieba's dictionary that are Chinese throughout, with their counts."""
    frequencies: Counter[str] = Counter()
    with _jieba().Tokenizer().get_dict_file() as file:
        for line in file:
            word, count, _ = line.decode("utf-8").split(" ")
            if is_chinese_word(word):
                frequencies[word] = int(count)
    return frequencies


@cache
def _character_frequencies() -> Counter[str]:
    """The characters of those words, with the counts of all words that they come in."""
    characters: Counter[str] = Counter()
    for word, count in _dictionary_frequencies().items():
        for character in word:
            characters[character] += count
    return characters


def _jieba() -> ModuleType:
    try:
        import jieba
    except ImportError as error:
        raise missing_package("jieba") from error
    return jieba
