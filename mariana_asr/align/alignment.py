"""Forced alignment of a data directory with a trained model."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.aligner import (
    AlignmentScales,
    ChunkResult,
    align_chunk,
    chunk_speaker_stats,
    load_aligner,
)
from mariana_asr.align.formats.model_io import read_gmm_model, read_transition_model
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.output.aligned_utterance import frame_shift_seconds
from mariana_asr.align.output.alignment_files import SCORES_FILE, AlignmentWriter
from mariana_asr.align.output.suspects import SUSPECTS_TABLE, SuspectFinder, SuspectOptions
from mariana_asr.align.phone_tables import check_phones
from mariana_asr.align.training.iterations import remove_system
from mariana_asr.align.training.sat import UNADAPTED_MODEL, report_unadapted
from mariana_asr.align.transforms.fmllr import FmllrResult, estimate_speakers
from mariana_asr.align.utterances import (
    GmmAcousticModel,
    HasLogLikelihoods,
    report_oov_words,
    split_in_chunks,
    usable_utterances,
)
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.kaldi_front_end import write_kaldi_front_end
from mariana_asr.features.linear import write_speaker_transforms
from mariana_asr.files import atomic_file, write_text
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)


class AlignOptions(AlignmentScales):
    """Options of forced alignment; scales and beams are those of steps/align_si.sh."""

    prior_scale: float = 1.0
    """What a network's log-priors are multiplied by before they are subtracted from its
    log-posteriors; GMMs have none."""
    formats: tuple[Literal["ctm", "textgrid", "json"], ...] = ("ctm", "json")
    """Forms in which words and phones with their times are written, beside Kaldi's alignments."""
    suspects: SuspectOptions = SuspectOptions()
    """When an utterance counts as suspicious."""


@dataclass(frozen=True)
class AlignSummary:
    """What an alignment gave.

    Attributes:
        utterances: Number of utterances aligned.
        frames: Number of their frames.
        log_likelihood_per_frame: Of the paths, transitions included, without the acoustic scale.
        retried: Number of utterances that took the retry beam.
        skipped: Number of utterances that could not be aligned.
        suspects: Number of utterances that look wrong, those that could not be aligned included.
    """

    utterances: int
    frames: int
    log_likelihood_per_frame: float
    retried: int
    skipped: int
    suspects: int


def align(
    data: DataDir,
    lang: Lang,
    model_dir: str | Path,
    out_dir: str | Path,
    options: AlignOptions | None = None,
    *,
    jobs: int = 1,
    acoustic_model: HasLogLikelihoods | None = None,
    transforms: Mapping[str, NDArray[np.float32]] | None = None,
) -> AlignSummary:
    """Align utterances to their transcripts.

    Writes to ``out_dir``: ``ali.1.gz`` (transition ids) and ``num_jobs``; ``scores.txt`` (each
    utterance's log-likelihood a frame); words and phones with their times in the forms asked for
    (``AlignmentWriter``); ``suspects.txt`` and ``suspects.json`` (utterances that look wrong);
    ``skipped.txt`` (utterances that failed, with the reason); and copies of what makes the folder
    a system of its own: ``tree``, ``final.mdl``, ``phones.txt`` and, of GMMs, their front end. With
    a speaker-adapted model also ``trans.1`` (the speakers' transforms), ``final.alimdl`` and
    ``unadapted.txt`` (speakers with too little data).

    A model with ``final.alimdl`` is taken for a speaker-adapted one: a first pass with that model
    gives alignments to estimate each speaker's fMLLR transform on (Kaldi: steps/align_fmllr.sh).

    Args:
        data: Features and transcripts.
        lang: Lexicon and phones, the same phones as the model's.
        model_dir: Directory with ``tree`` and ``final.mdl``, ours or Kaldi's.
        out_dir: Where the alignment goes.
        options: Beams, scales and outputs; None takes the defaults.
        jobs: Number of processes.
        acoustic_model: What gives likelihoods of the pdfs of ``final.mdl``, such as a network;
            None takes the GMMs in it.
        transforms: The speakers' fMLLR transforms, where they are known already; a network on
            adapted features needs them.

    Raises:
        FormatError: A file of the model is missing or damaged; its phones differ from those of
            ``lang``; or the data's features are not those it was trained on.
        DataError: The data directory has no features, or there are no transforms and the model
            needs them.
        StageError: No utterance could be aligned.
    """
    model_dir, out_dir = Path(model_dir), Path(out_dir)
    options = options or AlignOptions()
    check_phones(lang, model_dir)
    unadapted: DiagGmms | None = None
    if acoustic_model is None:
        acoustic_model = GmmAcousticModel.load(model_dir)
        unadapted = _read_unadapted(model_dir, acoustic_model.gmm)
    front_end = acoustic_model.front_end
    front_end.check(data.path)
    if (
        transforms is not None
        and not front_end.adapted
        and not isinstance(acoustic_model, GmmAcousticModel)
    ):
        raise FormatError(
            "there are transforms of speakers, and the network was not trained on adapted features",
            where=model_dir,
            remedy="Give no transforms",
        )
    front_end.check_speakers(transforms, model_dir)
    report_oov_words(data, lang)
    out_dir.mkdir(parents=True, exist_ok=True)
    if not out_dir.samefile(model_dir):
        remove_system(out_dir)

    skipped = Skipped("alignment")
    chunks = list(split_in_chunks(data, usable_utterances(data, front_end.transform, skipped)))
    setup = (model_dir, lang, options, acoustic_model, unadapted)
    with WorkerPool(jobs, setup=load_aligner, setup_arguments=setup) as pool:
        if unadapted is not None and transforms is None:
            estimated = _estimate_speakers(pool, chunks, options)
            transforms = {speaker: result.matrix for speaker, result in estimated.items()}
            report_unadapted(out_dir, estimated)
        own = (_own_transforms(chunk, transforms) for chunk in chunks)
        collected = _Collector(skipped)
        with ExitStack() as stack:
            shift = frame_shift_seconds(front_end.features)
            transition_model = read_transition_model(model_dir / "final.mdl")
            collected.finder = SuspectFinder(lang, data, shift, options.suspects)
            collected.writer = stack.enter_context(
                AlignmentWriter(
                    out_dir, lang, transition_model, data, shift, ("scores", *options.formats)
                )
            )
            results = pool.map(align_chunk, zip(chunks, own, strict=True))
            aligned = write_int_vectors(out_dir / "ali.1.gz", collected.collect(results))
    if not aligned:
        (out_dir / "ali.1.gz").unlink()
        (out_dir / SCORES_FILE).unlink()
    suspects = collected.finder.write(out_dir, skipped.reasons)
    skipped.finish(out_dir / "skipped.txt", aligned)
    write_text(out_dir / "num_jobs", "1\n")
    _write_system(lang, model_dir, out_dir, acoustic_model)
    if transforms is not None:
        write_speaker_transforms(out_dir, transforms)
    per_frame = collected.log_like / collected.frames
    logger.info(
        "aligned %d utterances, log-likelihood %.3f a frame; %d look suspicious (%s)",
        aligned,
        per_frame,
        len(suspects),
        out_dir / SUSPECTS_TABLE,
    )
    return AlignSummary(
        aligned, collected.frames, per_frame, collected.retried, len(skipped), len(suspects)
    )


class _Collector:
    """Takes the chunks' results as they come, and sums up what there is to say of them."""

    writer: AlignmentWriter
    finder: SuspectFinder

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self.frames = 0
        self.log_like = 0.0
        self.retried = 0

    def collect(self, results: Iterable[ChunkResult]) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Yield alignments, and note everything else about them."""
        for result in results:
            for utterance, reason in result.failed.items():
                self._skipped.add(utterance, reason)
            for utterance, path in result.aligned:
                frames = len(path.tids)
                try:
                    written = self.writer.write(
                        utterance,
                        path.tids,
                        path.log_like / frames,
                        path.retried,
                        path.frame_scores,
                    )
                except DataError as error:
                    self._skipped.add(utterance, str(error))
                    continue
                self.finder.add(written)
                self.frames += frames
                self.log_like += path.log_like
                self.retried += path.retried
                yield utterance, path.tids


def _read_unadapted(model_dir: Path, adapted: DiagGmms) -> DiagGmms | None:
    """The GMMs for unadapted features, if the model is a speaker-adapted one."""
    path = model_dir / UNADAPTED_MODEL
    if not path.exists():
        return None
    gmms = read_gmm_model(path).gmm
    if not np.array_equal(gmms.offsets, adapted.offsets) or gmms.dim != adapted.dim:
        raise FormatError(
            "its Gaussians do not match those of final.mdl one by one",
            where=path,
            remedy="Take both files from the same training",
        )
    return gmms


def _estimate_speakers(
    pool: WorkerPool, chunks: list[DataDir], options: AlignmentScales
) -> dict[str, FmllrResult]:
    """A transform for every speaker, from a first pass over the data."""
    return estimate_speakers(
        pool.map(chunk_speaker_stats, chunks),
        [set(chunk.spk2utt) for chunk in chunks],
        options.fmllr,
    )


def _own_transforms(
    chunk: DataDir, transforms: Mapping[str, NDArray[np.float32]] | None
) -> dict[str, NDArray[np.float32]] | None:
    """The transforms of the speakers of a part of the data."""
    if transforms is None:
        return None
    return {speaker: transforms[speaker] for speaker in chunk.spk2utt if speaker in transforms}


def _write_system(
    lang: Lang, model_dir: Path, out_dir: Path, acoustic_model: HasLogLikelihoods
) -> None:
    """Copy what makes the folder a system that another training can start from."""
    sources = [lang.path / "phones.txt", model_dir / "tree", model_dir / "final.mdl"]
    if isinstance(acoustic_model, GmmAcousticModel):
        acoustic_model.front_end.save(out_dir)
        write_kaldi_front_end(out_dir, acoustic_model.front_end)
        sources += [path for path in (model_dir / UNADAPTED_MODEL,) if path.exists()]
    for source in sources:
        target = out_dir / source.name
        if source.resolve() != target.resolve():
            with atomic_file(target) as temporary:
                shutil.copyfile(source, temporary)
