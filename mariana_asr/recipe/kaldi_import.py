"""Existing Kaldi work as the start of an experiment: its lang directory and its alignments."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.align.phone_tables import check_phones
from mariana_asr.align.transition_ids import alignment_files, iterate_alignments
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, StageError, summarise
from mariana_asr.files import write_text
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.recipe.schema import KaldiAlignments, LangSection

logger = logging.getLogger(__name__)


def kaldi_files(kaldi: KaldiAlignments) -> tuple[Path, ...]:
    """The files of Kaldi's work that an experiment depends on.

    Raises:
        FormatError: There is no lang directory, model, tree or alignment where the recipe says.
    """
    read_lang(kaldi.lang)
    model_dir = _model_dir(kaldi)
    needed = [model_dir / "final.mdl", model_dir / "tree", kaldi.lang / "L.fst"]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise FormatError(
            f"missing: {', '.join(missing)}",
            where=kaldi.ali,
            remedy="align.kaldi.ali is what steps/align_*.sh writes: ali.*.gz, final.mdl, tree",
        )
    grammar = kaldi.lang / "G.fst"
    return (*needed, *alignment_files(kaldi.ali), *((grammar,) if grammar.is_file() else ()))


def copy_lang(
    kaldi: KaldiAlignments, section: LangSection, sentences: Iterable[str], out: Path
) -> None:
    """Copy Kaldi's lang directory; make ``G.fst`` where the recipe names a language model.

    Raises:
        FormatError: It has no ``G.fst``, and the recipe names no language model.
    """
    shutil.copytree(kaldi.lang, out, dirs_exist_ok=True)
    if section.lm is not None:
        make_grammar(out, section.lm, sentences)
    elif not (out / "G.fst").is_file():
        raise FormatError(
            "no G.fst, so there is no language model",
            where=kaldi.lang,
            remedy="Name a lang directory with G.fst, or a language model in lang.lm",
        )


def import_alignments(
    data: DataDir,
    lang: Lang,
    kaldi: KaldiAlignments,
    options: AlignOptions,
    out: Path,
    *,
    jobs: int,
) -> None:
    """Take over Kaldi's alignments of a data directory's utterances, with their model.

    A set of which Kaldi's alignments have no utterance at all, such as a dev set of its own, is
    aligned with Kaldi's model.

    Raises:
        FormatError: A file is missing or damaged, or the phones are not those of ``lang``.
        StageError: No utterance could be aligned.
    """
    model_dir = _model_dir(kaldi)
    check_phones(lang, model_dir)
    wanted = data.utt2spk.keys()
    out.mkdir(parents=True, exist_ok=True)
    found: set[str] = set()

    def ours() -> Iterable[tuple[str, object]]:
        for utterance, tids in iterate_alignments(kaldi.ali):
            if utterance in wanted:
                found.add(utterance)
                yield utterance, tids

    write_int_vectors(out / "ali.1.gz", ours())  # type: ignore[arg-type]
    if not found:
        logger.info("%s: no alignments in %s, so it is aligned anew", data.path.name, kaldi.ali)
        align(data, lang, model_dir, out, options, jobs=jobs)
        return
    if missing := sorted(wanted - found):
        logger.warning(
            "%s: %d of %d utterances have no alignment in %s (%s)",
            data.path.name,
            len(missing),
            len(wanted),
            kaldi.ali,
            summarise(missing),
        )
    write_text(out / "num_jobs", "1\n")
    for name in ("final.mdl", "tree"):
        shutil.copyfile(model_dir / name, out / name)
    shutil.copyfile(lang.path / "phones.txt", out / "phones.txt")


def check_overlap(data: DataDir, kaldi: KaldiAlignments) -> None:
    """Check that Kaldi's alignments have utterances of the training set.

    Raises:
        StageError: They have none.
    """
    theirs = [utterance for utterance, _ in iterate_alignments(kaldi.ali)]
    if not data.utt2spk.keys() & set(theirs):
        raise StageError(
            f"no utterance of the training set is in {kaldi.ali}: it has {summarise(theirs)}, the "
            f"training set has {summarise(data.utterances)}",
            remedy="Utterance ids must be those that Kaldi's data directory had",
        )


def _model_dir(kaldi: KaldiAlignments) -> Path:
    return kaldi.ali if kaldi.ali.is_dir() else kaldi.ali.parent
