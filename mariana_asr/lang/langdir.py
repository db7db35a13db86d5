"""Kaldi lang directories: reading one, ours or Kaldi's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mariana_asr.errors import FormatError, summarise

if TYPE_CHECKING:
    from mariana_asr.kaldi import kaldi_hmm_gmm

_NEVER_SAID = frozenset(("<eps>", "<s>", "</s>", "#0"))
_REMEDY = "Is it a lang directory as Kaldi's prepare_lang.sh makes it?"


@dataclass(frozen=True)
class Root:
    """One root of the phonetic decision tree (a line of ``roots.int``).

    Attributes:
        shared: Whether the HMM states share the root; else each state has its own.
        split: Whether the tree may split below the root.
        phones: Ids of the phones under the root.
    """

    shared: bool
    split: bool
    phones: list[int]


@dataclass(frozen=True)
class Lang:
    """A lang directory in memory.

    Attributes:
        path: The directory.
        words: Word to id.
        phones: Phone to id, disambiguation symbols and ``<eps>`` included.
        silence_phones: Ids of silence and noise phones.
        nonsilence_phones: Ids of the phones of speech.
        context_indep_phones: Ids of phones whose model sees no context.
        optional_silence: Id of the phone that may stand between words.
        disambig_phones: Phone ids of #0, #1, ...
        disambig_words: Word ids of the symbols that L passes through (#0).
        oov: Id of the word that unknown words become.
        phone_sets: Phones that share a model in a monophone system (``sets.int``).
        roots: Roots of the decision tree (``roots.int``).
        word_boundary: Phone id to nonword, begin, end, internal or singleton; None where the
            phones carry no position.
        topo: HMM topologies in Kaldi's text form.
    """

    path: Path
    words: dict[str, int]
    phones: dict[str, int]
    silence_phones: list[int]
    nonsilence_phones: list[int]
    context_indep_phones: list[int]
    optional_silence: int
    disambig_phones: list[int]
    disambig_words: list[int]
    oov: int
    phone_sets: list[list[int]]
    roots: list[Root]
    word_boundary: dict[int, str] | None
    topo: str

    @property
    def oov_word(self) -> str:
        """The word that unknown words become."""
        return next(word for word, number in self.words.items() if number == self.oov)

    @property
    def special_words(self) -> set[str]:
        """Words of the table that nobody says: ``<eps>``, ``<s>``, ``</s>``, ``#0``, ..."""
        disambiguation = set(self.disambig_words)
        return {
            word
            for word, number in self.words.items()
            if word in _NEVER_SAID or number in disambiguation or word.startswith("#nonterm")
        }

    def speakable_words(self) -> list[str]:
        """Words that someone can say, sorted: no special ones, none said as silence or noise.

        Pronunciations are taken from ``phones/align_lexicon.int``; without that file all words
        but the special ones and the unknown word count.
        """
        words = self.words.keys() - self.special_words - {self.oov_word}
        lexicon = self.path / "phones" / "align_lexicon.int"
        if lexicon.exists():
            silence = {str(phone) for phone in self.silence_phones}
            said = {row[0] for row in read_rows(lexicon) if not silence.issuperset(row[2:])}
            words = {word for word in words if str(self.words[word]) in said}
        return sorted(words)

    def transcript_to_ids(self, text: str) -> list[int]:
        """Map a transcript to word ids; words outside of the table become the unknown word."""
        return [
            self.oov if word in _NEVER_SAID else self.words.get(word, self.oov)
            for word in text.split()
        ]

    def oov_words(self, text: str) -> list[str]:
        """Words of a transcript that `transcript_to_ids` maps to the unknown word."""
        return [w for w in text.split() if w not in self.words or w in _NEVER_SAID]

    def topology(self) -> "kaldi_hmm_gmm.HmmTopology":
        """Parse the topologies for kaldi_hmm_gmm.

        Raises:
            FormatError: The text is no topology, or lacks one for some phones.
        """
        from mariana_asr.kaldi import kaldi_hmm_gmm

        topology = kaldi_hmm_gmm.HmmTopology()
        try:
            topology.read(self.topo)
        except (RuntimeError, ValueError) as error:
            raise FormatError(
                f"not an HMM topology: {kaldi_message(error)}",
                where=self.path / "topo",
                remedy=_REMEDY,
            ) from error
        covered = {int(phone) for phone in topology.phones}
        missing = set(self.silence_phones + self.nonsilence_phones) - covered
        if missing:
            names = [name for name, number in self.phones.items() if number in missing]
            raise FormatError(
                f"no topology for the phones {summarise(names)}", where=self.path / "topo"
            )
        return topology


def read_lang(path: str | Path) -> Lang:
    """Read a lang directory of ours or of Kaldi's own tools.

    ``sets.int``, ``roots.int``, ``context_indep.int`` and the wdisambig files, which older Kaldi
    directories lack, fall back to what prepare_lang.sh would write.

    Raises:
        FormatError: A file is missing or malformed.
    """
    path = Path(path)
    if not path.is_dir():
        raise FormatError("no such lang directory", where=path)
    words = read_symbol_table(path / "words.txt")
    phones = read_symbol_table(path / "phones.txt")
    known = set(phones.values())
    folder = path / "phones"

    def optional(name: str) -> list[list[str]] | None:
        return read_rows(folder / name) if (folder / name).exists() else None

    silence = _ids(folder / "silence.int", known)
    nonsilence = _ids(folder / "nonsilence.int", known)
    sets = optional("sets.int")
    roots = optional("roots.int")
    boundary = optional("word_boundary.int")
    phone_sets = (
        [[phone] for phone in (*silence, *nonsilence)]
        if sets is None
        else [_integers(row, folder / "sets.int", known) for row in sets]
    )
    wdisambig = folder / "wdisambig_words.int"
    return Lang(
        path=path,
        words=words,
        phones=phones,
        silence_phones=silence,
        nonsilence_phones=nonsilence,
        context_indep_phones=_ids(folder / "context_indep.int", known)
        if (folder / "context_indep.int").exists()
        else silence,
        optional_silence=_one(_ids(folder / "optional_silence.int", known), folder),
        disambig_phones=_ids(folder / "disambig.int", known),
        disambig_words=_ids(wdisambig, set(words.values()))
        if wdisambig.exists()
        else [words[word] for word in ("#0",) if word in words],
        oov=_read_oov(path, words),
        phone_sets=phone_sets,
        roots=[Root(True, True, phones) for phones in phone_sets]
        if roots is None
        else [_root(row, folder / "roots.int", known) for row in roots],
        word_boundary=None
        if boundary is None
        else {
            _integers(row[:1], folder / "word_boundary.int", known)[0]: row[-1] for row in boundary
        },
        topo=_read(path / "topo"),
    )


def kaldi_message(error: Exception) -> str:
    """Take what went wrong out of an error of the Kaldi wheels, without their source lines."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(line.removeprefix("[E] ") for line in lines[1:]) or str(error)


def read_symbol_table(path: str | Path) -> dict[str, int]:
    """Read an OpenFst symbol table in text form (``words.txt``, ``phones.txt``).

    Raises:
        FormatError: Missing, not UTF-8, a line that is not ``symbol id``, or a repeated symbol
            or id.
    """
    path = Path(path)
    table: dict[str, int] = {}
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}:{number}"
        if len(row) != 2 or not row[1].isdecimal():
            raise FormatError(f"expected 'symbol id', found {' '.join(row)!r}", where=where)
        if row[0] in table:
            raise FormatError(f"the symbol {row[0]!r} comes twice", where=where)
        table[row[0]] = int(row[1])
    if len(set(table.values())) < len(table):
        raise FormatError("two symbols have one id", where=path)
    if not table:
        raise FormatError("empty symbol table", where=path, remedy=_REMEDY)
    return table


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise FormatError("no such file", where=path, remedy=_REMEDY) from error
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=path) from error


def read_rows(path: Path) -> list[list[str]]:
    """Read the words of each line that has any.

    Raises:
        FormatError: The file is missing or not UTF-8.
    """
    return [line.split() for line in _read(path).split("\n") if line.strip()]


def _integers(words: list[str], path: Path, known: set[int]) -> list[int]:
    bad = [word for word in words if not word.isdecimal() or int(word) not in known]
    if bad:
        raise FormatError(
            f"{bad[0]!r} is not an id of the symbol table", where=path, remedy=_REMEDY
        )
    return [int(word) for word in words]


def _ids(path: Path, known: set[int]) -> list[int]:
    return _integers([word for row in read_rows(path) for word in row], path, known)


def _one(ids: list[int], folder: Path) -> int:
    if len(ids) != 1:
        raise FormatError(f"expected one phone, found {ids}", where=folder / "optional_silence.int")
    return ids[0]


def _root(row: list[str], path: Path, known: set[int]) -> Root:
    if row[0] not in ("shared", "not-shared") or row[1:2] not in (["split"], ["not-split"]):
        raise FormatError(
            f"expected 'shared|not-shared split|not-split phones', found {' '.join(row)!r}",
            where=path,
        )
    return Root(row[0] == "shared", row[1] == "split", _integers(row[2:], path, known))


def _read_oov(path: Path, words: dict[str, int]) -> int:
    if (path / "oov.int").exists():
        return _one_word(_ids(path / "oov.int", set(words.values())), path / "oov.int")
    word = _read(path / "oov.txt").strip()
    if word not in words:
        raise FormatError(f"the word {word!r} is not in words.txt", where=path / "oov.txt")
    return words[word]


def _one_word(ids: list[int], path: Path) -> int:
    if len(ids) != 1:
        raise FormatError(f"expected one word id, found {ids}", where=path)
    return ids[0]
