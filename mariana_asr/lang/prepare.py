"""Building a Kaldi lang directory from a dictionary."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mariana_asr.errors import DataError
from mariana_asr.files import write_text
from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.dictionary import Dictionary
from mariana_asr.lang.fst_arrays import write_fst
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.lexicon_fst import add_disambiguation, lexicon_fst, silence_lexicon_fst
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.topology import topology_text

logger = logging.getLogger(__name__)

_POSITIONS = ("_B", "_E", "_I", "_S")
_PLACE_IN_WORD = {"_B": "begin", "_E": "end", "_I": "internal", "_S": "singleton"}


def prepare_lang(dictionary: Dictionary, options: LangOptions, out_dir: str | Path) -> Lang:
    """Write the lang directory that Kaldi's utils/prepare_lang.sh writes.

    A missing unknown word is added to the dictionary (`Dictionary.with_oov`). Where the
    dictionary has probabilities of silence, the lexicon transducers have them and ``sil_prob``
    is not used. A ``G.fst`` that stands in ``out_dir`` is removed, since its word ids may no
    longer hold.

    Returns:
        The directory as `read_lang` reads it.

    Raises:
        DataError: A phone of a pronunciation is in no list of phones, phones end like
            position-dependent ones, or some pronunciations only have probabilities of silence.
    """
    out = Path(out_dir)
    dictionary = dictionary.with_oov(options.oov)
    _check_phones(dictionary, options.position_dependent_phones)
    texts = _Texts(dictionary, options)
    files = texts.files()
    (out / "G.fst").unlink(missing_ok=True)
    for name, text in files.items():
        write_text(out / name, text)

    write_fst(out / "L.fst", texts.lexicon(texts.positioned))
    write_fst(
        out / "L_disambig.fst",
        texts.lexicon(
            texts.marked,
            silence_disambig=texts.phones[texts.disambig[-1]],
            passed_through=[(texts.phones["#0"], texts.words["#0"])],
        ),
    )
    logger.info(
        "%s: %d words, %d pronunciations, %d phones",
        out,
        len(dictionary.words),
        len(dictionary.pronunciations),
        len(texts.silence) + len(texts.nonsilence),
    )
    return read_lang(out)


class _Texts:
    """The symbol tables and text files of a lang directory."""

    def __init__(self, dictionary: Dictionary, options: LangOptions) -> None:
        self.dictionary = dictionary
        self.options = options
        self.positioned = [
            _mark_positions(entry.phones) if options.position_dependent_phones else entry.phones
            for entry in dictionary.pronunciations
        ]
        self.marked, highest = add_disambiguation(self.positioned)
        highest += options.num_extra_phone_disambig_syms
        self.disambig = [f"#{n}" for n in range(highest + 1)]
        self.silence_sets = self._expand(dictionary.silence_phones, ("", *_POSITIONS))
        self.nonsilence_sets = self._expand(dictionary.nonsilence_phones, _POSITIONS)
        self.silence = _flat(self.silence_sets)
        self.nonsilence = _flat(self.nonsilence_sets)
        names = ["<eps>", *self.silence, *self.nonsilence, *self.disambig]
        self.phones = {name: number for number, name in enumerate(names)}
        # Code points sort as UTF-8 bytes do, which is the order of LC_ALL=C sort.
        words = ["<eps>", *sorted(dictionary.words), "#0", "<s>", "</s>"]
        self.words = {word: number for number, word in enumerate(words)}

    def _expand(self, sets: list[list[str]], suffixes: Sequence[str]) -> list[list[str]]:
        if not self.options.position_dependent_phones:
            return sets
        return [[phone + suffix for phone in phones for suffix in suffixes] for phones in sets]

    def lexicon(
        self,
        pronunciations: Sequence[tuple[str, ...]],
        *,
        silence_disambig: int | None = None,
        passed_through: Sequence[tuple[int, int]] = (),
    ) -> "kaldifst.StdVectorFst":
        """Build L of the dictionary's words with these phones, one tuple a pronunciation."""
        entries = self.dictionary.pronunciations
        words = [self.words[entry.word] for entry in entries]
        probabilities = [entry.probability for entry in entries]
        phones = [[self.phones[phone] for phone in row] for row in pronunciations]
        silence_phone = self.phones[self.dictionary.optional_silence]
        if self.dictionary.silence is None:
            return lexicon_fst(
                words,
                probabilities,
                phones,
                sil_prob=self.options.sil_prob,
                silence_phone=silence_phone,
                silence_disambig=silence_disambig,
                passed_through=passed_through,
            )
        return silence_lexicon_fst(
            words,
            probabilities,
            phones,
            [entry.silence for entry in entries if entry.silence is not None],
            self.dictionary.silence,
            silence_phone=silence_phone,
            silence_disambig=silence_disambig,
            passed_through=passed_through,
        )

    def files(self) -> dict[str, str]:
        """Map file names within the lang directory to contents."""
        oov = self.options.oov
        files = {
            "phones.txt": _symbol_table(self.phones),
            "words.txt": _symbol_table(self.words),
            "topo": topology_text(
                [self.phones[p] for p in self.nonsilence],
                [self.phones[p] for p in self.silence],
                self.options.num_nonsil_states,
                self.options.num_sil_states,
            ),
            "oov.txt": f"{oov}\n",
            "oov.int": f"{self.words[oov]}\n",
            "phones/wdisambig.txt": "#0\n",
            "phones/wdisambig_phones.int": f"{self.phones['#0']}\n",
            "phones/wdisambig_words.int": f"{self.words['#0']}\n",
        }
        lists = {
            "silence": self.silence,
            "nonsilence": self.nonsilence,
            "optional_silence": [self.dictionary.optional_silence],
            "disambig": self.disambig,
            "context_indep": self.silence,
        }
        for name, phones in lists.items():
            ids = [str(self.phones[phone]) for phone in phones]
            files[f"phones/{name}.txt"] = _lines(phones)
            files[f"phones/{name}.int"] = _lines(ids)
            files[f"phones/{name}.csl"] = ":".join(ids) + "\n"
        sets = [*self.silence_sets, *self.nonsilence_sets]
        kinds = ["shared split"] * len(sets)
        if self.options.share_silence_phones:
            sets = [self.silence, *self.nonsilence_sets]
            kinds = ["not-shared not-split"] + ["shared split"] * len(self.nonsilence_sets)
        files |= self._both("sets", [("", phones, "") for phones in sets])
        files |= self._both(
            "roots", [(f"{kind} ", phones, "") for kind, phones in zip(kinds, sets, strict=True)]
        )
        files |= self._both("extra_questions", [("", q, end) for q, end in self._questions()])
        if self.options.position_dependent_phones:
            places = [
                ("", [phone], f" {_PLACE_IN_WORD.get(phone[-2:], 'nonword')}")
                for phone in (*self.silence, *self.nonsilence)
            ]
            files |= self._both("word_boundary", places)
        return files | self._align_lexicon()

    def _both(self, name: str, rows: list[tuple[str, list[str], str]]) -> dict[str, str]:
        """Write rows of phones, with what stands before and after, as names and as ids."""
        return {
            f"phones/{name}.txt": _lines(a + " ".join(phones) + b for a, phones, b in rows),
            f"phones/{name}.int": _lines(
                a + " ".join(str(self.phones[p]) for p in phones) + b.rstrip(" ")
                for a, phones, b in rows
            ),
        }

    def _questions(self) -> list[tuple[list[str], str]]:
        """Extra questions; Kaldi ends those about positions with a blank."""
        silence = {p for phones in self.dictionary.silence_phones for p in phones}
        questions: list[tuple[list[str], str]] = []
        for phones in self.dictionary.extra_questions:
            expanded = [
                self._expand([[p]], ("", *_POSITIONS) if p in silence else _POSITIONS)[0]
                for p in phones
            ]
            questions.append((_flat(expanded), ""))
        if self.options.position_dependent_phones:
            for suffix in _POSITIONS:
                phones = [p + suffix for p in _flat(self.dictionary.nonsilence_phones)]
                questions.append((phones, " "))
            for suffix in ("", *_POSITIONS):
                phones = [p + suffix for p in _flat(self.dictionary.silence_phones)]
                questions.append((phones, " "))
        return questions

    def _align_lexicon(self) -> dict[str, str]:
        rows = {
            (entry.word, *phones)
            for entry, phones in zip(self.dictionary.pronunciations, self.positioned, strict=True)
        }
        rows.add(("<eps>", self.dictionary.optional_silence))
        text, ids = [], []
        for word, *phones in sorted(rows, key=lambda row: " ".join((row[0], *row))):
            number = self.words[word]
            text.append(" ".join((word, word, *phones)))
            ids.append(" ".join(map(str, (number, number, *(self.phones[p] for p in phones)))))
        return {"phones/align_lexicon.txt": _lines(text), "phones/align_lexicon.int": _lines(ids)}


def _check_phones(dictionary: Dictionary, position_dependent: bool) -> None:
    phones = _flat(dictionary.silence_phones) + _flat(dictionary.nonsilence_phones)
    problems = [
        f"the phone {p!r} is listed twice" for p in {p for p in phones if phones.count(p) > 1}
    ]
    known = set(phones)
    for entry in dictionary.pronunciations:
        unknown = [phone for phone in entry.phones if phone not in known]
        if unknown or not entry.phones:
            problems.append(f"{entry.word!r}: unknown phones {unknown} or no phone at all")
        if (entry.silence is None) != (dictionary.silence is None):
            problems.append(f"{entry.word!r}: probabilities of silence must stand with all or none")
    if position_dependent:
        problems += [f"the phone {p!r} ends in {p[-2:]}" for p in phones if p[-2:] in _POSITIONS]
    if problems:
        raise DataError(
            f"the dictionary cannot become a lang directory: {'; '.join(problems[:10])}",
            remedy="Read it with read_dictionary, which tells file and line",
        )


def _mark_positions(phones: tuple[str, ...]) -> tuple[str, ...]:
    if len(phones) == 1:
        return (phones[0] + "_S",)
    return (phones[0] + "_B", *(p + "_I" for p in phones[1:-1]), phones[-1] + "_E")


def _flat(lists: Iterable[Iterable[str]]) -> list[str]:
    return [item for inner in lists for item in inner]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _symbol_table(symbols: Mapping[str, int]) -> str:
    return _lines(f"{name} {number}" for name, number in symbols.items())
