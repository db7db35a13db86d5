"""Checking a lang directory, as Kaldi's utils/validate_lang.pl does for the essentials."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mariana_asr.errors import FormatError, summarise
from mariana_asr.lang.fst_arrays import from_fst, read_fst
from mariana_asr.lang.grammar import grammar_problems
from mariana_asr.lang.langdir import Lang, read_lang, read_rows

_CATEGORIES = ("nonword", "begin", "end", "internal", "singleton")
_LISTS = ("silence", "nonsilence", "optional_silence", "disambig", "context_indep")


def validate_lang(path: str | Path) -> list[str]:
    """List what is wrong with a lang directory; the list is empty where all is well.

    Checked are the symbol tables, that ``.txt``, ``.int`` and ``.csl`` files say the same, that
    silence, nonsilence and disambiguation symbols make up ``phones.txt`` without overlap, that
    sets, roots, word boundaries and topologies cover all phones, the labels and sorting of
    ``L.fst`` and ``L_disambig.fst``, and, where there is one, ``G.fst``.
    """
    path = Path(path)
    problems: list[str] = []
    try:
        lang = read_lang(path)
    except FormatError as error:
        return [str(error)]
    checks: tuple[Callable[[Lang], list[str]], ...] = (
        _check_symbols,
        _check_files_agree,
        _check_phone_lists,
        _check_coverage,
        _check_word_boundaries,
        _check_topology,
        _check_lexicon_fsts,
        _check_grammar,
    )
    for check in checks:
        try:
            problems += check(lang)
        except FormatError as error:
            problems.append(str(error))
    return problems


def _check_symbols(lang: Lang) -> list[str]:
    problems = []
    for name, table in (("words.txt", lang.words), ("phones.txt", lang.phones)):
        if table.get("<eps>") != 0:
            problems.append(f"{lang.path / name}: <eps> must have the id 0")
        if "#0" not in table:
            problems.append(f"{lang.path / name}: no #0, which back-off arcs of G carry")
    if lang.oov_word in lang.special_words:
        problems.append(f"{lang.path}/oov.txt: {lang.oov_word} cannot be the unknown word")
    return problems


def _check_files_agree(lang: Lang) -> list[str]:
    folder = lang.path / "phones"
    words, phones = lang.words, lang.phones
    # The fields of each line that stand for ids of a table; other fields are the same in both.
    tables = [(folder / name, phones, phones, 0) for name in (*_LISTS, "sets", "extra_questions")]
    tables += [(folder / "roots", phones, phones, 2), (folder / "word_boundary", phones, phones, 0)]
    tables += [(folder / "align_lexicon", words, phones, 0), (lang.path / "oov", words, words, 0)]
    problems = []
    for base, first, rest, skipped in tables:
        text, numbers = base.with_suffix(".txt"), base.with_suffix(".int")
        if not text.exists() or not numbers.exists():
            continue
        heads = 2 if base.name == "align_lexicon" else 0
        expected = [
            row[:skipped]
            + [
                str((first if at < heads else rest).get(name, name))
                for at, name in enumerate(row[skipped:])
            ]
            for row in read_rows(text)
        ]
        found = read_rows(numbers)
        if expected != found:
            line = next(
                (n for n, (a, b) in enumerate(zip(expected, found, strict=False), 1) if a != b),
                min(len(expected), len(found)) + 1,
            )
            problems.append(f"{numbers}:{line}: does not correspond to {text.name}")
    for name in _LISTS:
        joined, numbers = folder / f"{name}.csl", folder / f"{name}.int"
        if joined.exists() and numbers.exists():
            ids = ":".join(row[0] for row in read_rows(numbers))
            if "".join(row[0] for row in read_rows(joined)) != ids:
                problems.append(f"{joined}: does not correspond to {numbers.name}")
    return problems


def _check_phone_lists(lang: Lang) -> list[str]:
    lists = {
        "silence.int": lang.silence_phones,
        "nonsilence.int": lang.nonsilence_phones,
        "disambig.int": lang.disambig_phones,
    }
    owner: dict[int, str] = {}
    problems = []
    for name, ids in lists.items():
        for number in ids:
            if number in owner:
                problems.append(
                    f"{lang.path}/phones: phone {number} is in {owner[number]} and in {name}"
                )
            owner[number] = name
    missing = [
        name
        for name, number in lang.phones.items()
        if number not in owner and name != "<eps>" and not name.startswith("#nonterm")
    ]
    if missing:
        problems.append(
            f"{lang.path}/phones.txt: neither silence nor nonsilence nor disambiguation symbols: "
            + summarise(missing)
        )
    if lang.optional_silence not in lang.silence_phones:
        problems.append(f"{lang.path}/phones/optional_silence.int: not a silence phone")
    return problems


def _check_coverage(lang: Lang) -> list[str]:
    phones = sorted(lang.silence_phones + lang.nonsilence_phones)
    problems = []
    for name, sets in (
        ("sets.int", lang.phone_sets),
        ("roots.int", [root.phones for root in lang.roots]),
    ):
        if sorted(phone for phones_of in sets for phone in phones_of) != phones:
            problems.append(f"{lang.path}/phones/{name}: does not hold every phone exactly once")
    return problems


def _check_word_boundaries(lang: Lang) -> list[str]:
    boundary = lang.word_boundary
    if boundary is None:
        return []
    file = lang.path / "phones" / "word_boundary.int"
    problems = []
    if set(boundary) != set(lang.silence_phones + lang.nonsilence_phones):
        problems.append(f"{file}: does not hold every phone of silence and nonsilence")
    bad = sorted(set(boundary.values()) - set(_CATEGORIES))
    if bad:
        problems.append(f"{file}: unknown categories {bad}, allowed are {', '.join(_CATEGORIES)}")
    lexicon = lang.path / "phones" / "align_lexicon.int"
    for line, row in enumerate(read_rows(lexicon) if lexicon.exists() else [], 1):
        places = [boundary.get(int(phone), "?") for phone in row[2:] if phone.isdecimal()]
        if row[0] == "0" or not places:
            continue
        expected = ["singleton"]
        if len(places) > 1:
            expected = ["begin", *["internal"] * (len(places) - 2), "end"]
        if places != expected:
            problems.append(f"{lexicon}:{line}: the phones' places in the word are {places}")
            break
    return problems


def _check_topology(lang: Lang) -> list[str]:
    lang.topology()
    return []


def _check_lexicon_fsts(lang: Lang) -> list[str]:
    problems = []
    for name in ("L.fst", "L_disambig.fst"):
        file = lang.path / name
        fst = read_fst(file)
        if not fst.is_olabel_sorted:
            problems.append(f"{file}: arcs are not sorted by output label")
        arrays = from_fst(fst)
        if not np.isfinite(arrays.final).any():
            problems.append(f"{file}: accepts nothing")
        ilabels, olabels = set(arrays.ilabel.tolist()), set(arrays.olabel.tolist())
        if ilabels - set(lang.phones.values()) or olabels - set(lang.words.values()):
            problems.append(f"{file}: has labels that phones.txt or words.txt lack")
        unsaid = {
            word
            for word, number in lang.words.items()
            if number not in olabels and word not in lang.special_words
        }
        if unsaid:
            problems.append(f"{file}: words without a pronunciation: {summarise(sorted(unsaid))}")
        if name == "L_disambig.fst" and not set(lang.disambig_words) <= olabels:
            problems.append(f"{file}: does not pass #0 through")
    return problems


def _check_grammar(lang: Lang) -> list[str]:
    file = lang.path / "G.fst"
    if not file.exists():
        return []
    fst = read_fst(file)
    problems = [f"{file}: {problem}" for problem in grammar_problems(from_fst(fst), lang)]
    if not fst.is_ilabel_sorted:
        problems.append(f"{file}: arcs are not sorted by input label")
    return problems
