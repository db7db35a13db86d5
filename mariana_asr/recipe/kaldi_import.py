"""Existing Kaldi work as the start of an experiment: its lang directory and its alignments."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from mariana_asr.align.alignment import AlignOptions, align
from mariana_asr.align.phone_tables import check_phones
from mariana_asr.align.training.sat import UNADAPTED_MODEL
from mariana_asr.align.transition_ids import alignment_files, iterate_alignments
from mariana_asr.align.utterances import GmmAcousticModel
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, StageError, counted, summarise
from mariana_asr.features.kaldi_front_end import write_kaldi_front_end
from mariana_asr.features.linear import require_speaker_transforms, write_speaker_transforms
from mariana_asr.files import write_text
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.recipe.schema import KaldiAlignments, LangSection

logger = logging.getLogger(__name__)


_MODEL_EXTRAS = ("final.alimdl", "final.mat", "cmvn_opts", "delta_opts", "splice_opts")
"""What may stand beside a model of Kaldi's, and counts where a set is aligned with it."""


def kaldi_lang_files(kaldi: KaldiAlignments, section: LangSection) -> tuple[Path, ...]:
    """The files of Kaldi's lang directory.

    Raises:
        FormatError: It is none, or it has no ``G.fst`` and the recipe names no language model.
    """
    read_lang(kaldi.lang)
    _require(kaldi.lang, ("L.fst", "L_disambig.fst"), "align.kaldi.lang is a whole lang directory")
    if section.lm is None and not (kaldi.lang / "G.fst").is_file():
        raise FormatError(
            "no G.fst, so there is no language model",
            where=kaldi.lang,
            remedy="Name a lang directory with G.fst, or a language model in lang.lm",
        )
    return tuple(sorted(path for path in kaldi.lang.rglob("*") if path.is_file()))


def kaldi_alignment_files(kaldi: KaldiAlignments, *, adapted: bool = False) -> tuple[Path, ...]:
    """Kaldi's alignments, and the files of the model that they were made with.

    Args:
        kaldi: Where they are.
        adapted: Whether the speakers' transforms are needed, too.

    Raises:
        FormatError: There is no model, tree or alignment where the recipe says; or, if transforms
            are needed, the model is no speaker-adapted one or there are none.
    """
    model_dir, needed = kaldi_model_dir(kaldi), ("final.mdl", "tree")
    remedy = "align.kaldi.ali is what steps/align_*.sh writes: ali.*.gz, final.mdl, tree"
    if not kaldi.ali.exists():
        raise FormatError("no such directory of alignments", where=kaldi.ali, remedy=remedy)
    _require(model_dir, needed, remedy)
    transforms: tuple[Path, ...] = ()
    if adapted:
        remedy = "model.adapted needs a speaker-adapted model by Kaldi, as steps/train_sat.sh "
        remedy += "trains and steps/align_fmllr.sh aligns with; without one leave it out"
        _require(model_dir, (UNADAPTED_MODEL,), remedy)
        transforms = tuple(sorted(model_dir.glob("trans.*")))
        if not transforms:
            raise FormatError("no trans.* here", where=model_dir, remedy=remedy)
    extras = (name for name in _MODEL_EXTRAS if (model_dir / name).is_file())
    model = (model_dir / name for name in (*needed, *extras))
    return (*model, *transforms, *alignment_files(kaldi.ali))


def _require(folder: Path, names: Iterable[str], remedy: str) -> None:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FormatError(f"no {', '.join(missing)} here", where=folder, remedy=remedy)


def copy_lang(
    kaldi: KaldiAlignments, section: LangSection, sentences: Iterable[str], out: Path
) -> None:
    """Copy Kaldi's lang directory; make ``G.fst`` where the recipe names a language model.

    Raises:
        MarianaError: The language model cannot be made.
    """
    for path in kaldi_lang_files(kaldi, section):
        # Contents only: what is not ours to write may not be ours to remove as a copy either.
        target = out / path.relative_to(kaldi.lang)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    if section.lm is not None:
        make_grammar(out, section.lm, sentences)


def import_alignments(
    data: DataDir,
    lang: Lang,
    kaldi: KaldiAlignments,
    options: AlignOptions,
    out: Path,
    *,
    jobs: int,
    adapted: bool = False,
) -> None:
    """Take over Kaldi's alignments of a data directory's utterances, with their model.

    A set of which Kaldi's alignments have no utterance at all, such as a dev set of its own, is
    aligned with Kaldi's model. If ``adapted`` the transforms of its speakers come along, too, with
    what else makes the folder a speaker-adapted system.

    Raises:
        FormatError: A file is missing or damaged, the phones are not those of ``lang``, or there
            is no transform of any speaker.
        StageError: No utterance could be aligned.
    """
    model_dir = kaldi_model_dir(kaldi)
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
    logger.info(
        "%s: alignments of %d of %d utterances are in %s",
        data.path.name,
        len(found),
        len(wanted),
        kaldi.ali,
    )
    if missing := sorted(wanted - found):
        logger.warning(
            "%s: %s without an alignment: %s",
            data.path.name,
            counted(len(missing), "utterance"),
            summarise(missing),
        )
    write_text(out / "num_jobs", "1\n")
    for name in ("final.mdl", "tree"):
        shutil.copyfile(model_dir / name, out / name)
    shutil.copyfile(lang.path / "phones.txt", out / "phones.txt")
    if adapted:
        _copy_adaptation(data, model_dir, out)


def _copy_adaptation(data: DataDir, model_dir: Path, out: Path) -> None:
    """Copy the transforms of a set's speakers, and what they are applied to and decoded with."""
    transforms = require_speaker_transforms(model_dir)
    known = {s: transforms[s] for s in data.spk2utt if s in transforms}
    if not known:
        raise FormatError(
            f"no transform of a speaker of {data.path.name}: they are of "
            f"{summarise(sorted(transforms))}, the set has {summarise(list(data.spk2utt))}",
            where=model_dir / "trans.*",
            remedy="Speaker ids must be those that Kaldi's data directory had",
        )
    write_speaker_transforms(out, known)
    front_end = GmmAcousticModel.load(model_dir).front_end
    front_end.save(out)
    write_kaldi_front_end(out, front_end)
    shutil.copyfile(model_dir / UNADAPTED_MODEL, out / UNADAPTED_MODEL)


def check_overlap(data: DataDir, kaldi: KaldiAlignments) -> None:
    """Check that Kaldi's alignments have utterances of the training set.

    Raises:
        FormatError: An archive is missing or damaged.
        StageError: They have none.
    """
    theirs = []
    for utterance, _ in iterate_alignments(kaldi.ali):
        if utterance in data.utt2spk:
            return
        theirs.append(utterance)
    raise StageError(
        f"no utterance of the training set is in {kaldi.ali}: it has {summarise(theirs)}, the "
        f"training set has {summarise(data.utterances)}",
        remedy="Utterance ids must be those that Kaldi's data directory had",
    )


def kaldi_model_dir(kaldi: KaldiAlignments) -> Path:
    """Where the model is that Kaldi's alignments were made with."""
    return kaldi.ali if kaldi.ali.is_dir() else kaldi.ali.parent
