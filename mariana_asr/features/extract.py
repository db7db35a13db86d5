"""Computing the features of a data directory, and taking over those that it already has."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.archives import ArchiveWriter, read_script
from mariana_asr.corpus.audio import iterate_audio, recording_of
from mariana_asr.corpus.datadir import FEATURES_FILE, DataDir
from mariana_asr.corpus.speed import AS_RECORDED
from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.augmentation.distortion import Distorter
from mariana_asr.features.cmvn import accumulate_cmvn_stats
from mariana_asr.features.compute import compute_features
from mariana_asr.features.fbank import FbankOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.features.reading import read_raw_features
from mariana_asr.features.settings import (
    Settings,
    compare_settings,
    joined_settings,
    read_feature_settings,
)
from mariana_asr.files import write_json, write_text
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

_UTTERANCES_A_MESSAGE = 5000


@dataclass(frozen=True)
class FeatureSummary:
    """What one run made.

    Attributes:
        data: The data directory with features.
        frames: Number of frames.
        dim: Values a frame.
        audio_seconds: Seconds of audio that features were made of; None where they were adopted.
        wall_seconds: Seconds that it took.
        skipped: Utterance to the reason why it is left out.
    """

    data: DataDir
    frames: int
    dim: int
    audio_seconds: float | None
    wall_seconds: float
    skipped: dict[str, str]

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work a second of audio, all processes together in wall time."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds else None

    def describe(self) -> str:
        """One line: counts, hours of audio, speed."""
        text = f"{len(self.data.utt2spk)} utterances, {self.frames} frames of {self.dim} values"
        if self.audio_seconds is not None:
            text += (
                f", {self.audio_seconds / 3600:.2f} hours of audio in {self.wall_seconds:.1f} s"
                f" (real-time factor {self.real_time_factor:.4f})"
            )
        return f"{text}; {len(self.skipped)} skipped" if self.skipped else text


@dataclass(frozen=True)
class _Computed:
    """One utterance's features, or why there are none."""

    utterance: str
    feats: NDArray[np.float32] | None = None
    seconds: float | None = None
    reason: str = ""


def extract_features(
    data: DataDir,
    out_dir: str | Path,
    options: MfccOptions | FbankOptions,
    *,
    beside: DataDir | None = None,
    distorter: Distorter | None = None,
    compress: bool = False,
    jobs: int = 1,
    allow_pipes: bool = False,
) -> FeatureSummary:
    """Compute features and CMVN statistics, as Kaldi's make_mfcc.sh and compute_cmvn_stats.sh do.

    ``out_dir`` becomes a data directory of the utterances that worked, with feats.ark and
    feats.scp, cmvn.ark and cmvn.scp (statistics by speaker), utt2num_frames, utt2dur,
    features.json (the options) and skipped.txt. Its ``utt2spk`` is written last: a directory
    without it is not done.

    Where there are features but no audio, for example Kaldi's own, they are copied, so that what
    follows does not depend on the place where they were, and CMVN statistics are computed.
    Utterances whose features are missing, damaged, empty, NaN or of another dimension than most
    are skipped and listed.

    Args:
        data: The data directory with the audio.
        out_dir: The data directory to write; another one than ``data``'s.
        options: Kind of features and their options.
        beside: A data directory whose features come first in each frame, with these after them
            (Kaldi: paste-feats). Utterances without features there, or with another number of
            frames, are skipped and listed.
        distorter: What changes the audio first; speeds (``utt2speed``) come before it.
        compress: Store 8 bits a value, as Kaldi's recipes do.
        jobs: Number of processes.
        allow_pipes: Run the commands in ``wav.scp`` that end in ``|``.

    Raises:
        DataError: The directory has neither audio nor features, is ``out_dir`` itself, or has no
            audio to distort.
        FormatError: Its features, to be adopted, were computed with other options.
        StageError: No utterance could be used; its message gives the first reasons.
    """
    settings: Settings | None = options.model_dump()
    if data.wav:
        stage = "feature extraction"
        computed = _computed(data, options, distorter, jobs, allow_pipes)
    elif distorter is not None:
        raise DataError("no wav.scp: without audio there is nothing to distort", where=data.path)
    elif data.feats:
        given = read_feature_settings(data.path)
        differences = {} if given is None else compare_settings(options.model_dump(), given)
        if differences:
            listed = ", ".join(
                f"{key} (asked for: {asked}, there: {there})"
                for key, (asked, there) in differences.items()
            )
            raise FormatError(
                f"no audio, and the features there have other options than asked for: {listed}",
                where=data.path / FEATURES_FILE,
                remedy="Ask for these options, or give the audio",
            )
        stage, computed, settings = "taking over features", _adopted(data), given
    else:
        raise DataError("neither wav.scp nor feats.scp: no audio, no features", where=data.path)
    if beside is not None:
        computed = _joined(beside, computed)
        settings = joined_settings(read_feature_settings(beside.path), settings)
    return _write(data, Path(out_dir), computed, settings, stage, compress)


def _joined(first: DataDir, computed: Iterable[_Computed]) -> Iterator[_Computed]:
    """Put another directory's features before those that were computed."""
    for result in computed:
        utterance, feats = result.utterance, result.feats
        if feats is None:
            yield result
            continue
        try:
            others = read_raw_features(first, utterance)
        except DataError as error:
            yield _Computed(utterance, reason=str(error).removeprefix(f"{utterance}: "))
            continue
        if len(others) != len(feats):
            reason = f"{len(feats)} frames, but {len(others)} in {first.path}"
            yield _Computed(utterance, reason=reason)
            continue
        yield replace(result, feats=np.hstack([others, feats]))


def _computed(
    data: DataDir,
    options: MfccOptions | FbankOptions,
    distorter: Distorter | None,
    jobs: int,
    allow_pipes: bool,
) -> Iterator[_Computed]:
    by_recording: dict[str, list[str]] = {}
    for utterance in data.utterances:
        try:
            by_recording.setdefault(recording_of(data, utterance), []).append(utterance)
        except DataError as error:
            yield _Computed(utterance, reason=str(error))
    work = partial(_compute_recording, options=options, allow_pipes=allow_pipes)
    recordings = (_one_recording(data, name, members) for name, members in by_recording.items())
    jobs = min(jobs, max(1, len(by_recording)))
    try:
        for results in parallel_map(
            work, recordings, jobs=jobs, setup=_set_distorter, setup_arguments=(distorter,)
        ):
            yield from results
    finally:
        _set_distorter(None)


_distorter: Distorter | None = None
"""Of this process, to which it is sent once: it holds recordings for babble."""


def _set_distorter(distorter: Distorter | None) -> None:
    global _distorter
    _distorter = distorter


def _one_recording(data: DataDir, recording: str, utterances: list[str]) -> DataDir:
    """A data directory of one recording, small enough to be sent to a process."""
    return DataDir(
        path=data.path,
        utt2spk={utterance: data.utt2spk[utterance] for utterance in utterances},
        wav={recording: data.wav[recording]},
        segments=None if data.segments is None else {u: data.segments[u] for u in utterances},
        speeds={u: data.speeds[u] for u in utterances if u in data.speeds},
    )


def _compute_recording(
    data: DataDir, *, options: MfccOptions | FbankOptions, allow_pipes: bool
) -> list[_Computed]:
    """Features of all utterances of one recording; runs in a process of its own."""
    results: list[_Computed] = []

    def failed(utterance: str, error: DataError) -> None:
        results.append(_Computed(utterance, reason=str(error)))

    for utterance, samples, rate in iterate_audio(data, allow_pipes=allow_pipes, on_error=failed):
        try:
            if _distorter is not None:
                samples = _distorter.distort(
                    samples,
                    rate,
                    utterance,
                    speaker=data.utt2spk[utterance],
                    speed=data.speeds.get(utterance, AS_RECORDED),
                )
            feats = compute_features(samples, rate, options, utterance=utterance)
        except DataError as error:
            failed(utterance, error)
            continue
        seconds = len(samples) / rate
        reason = ""
        if not len(feats):
            reason = f"{seconds:.3f} s of audio: not one frame of {options.frame_length:g} ms"
        elif not np.isfinite(feats).all():
            reason = "NaN or infinite features"
        results.append(_Computed(utterance, None if reason else feats, seconds, reason))
    return results


def _adopted(data: DataDir) -> Iterator[_Computed]:
    for utterance in data.utterances:
        try:
            yield _Computed(utterance, read_raw_features(data, utterance))
        except DataError as error:
            yield _Computed(utterance, reason=str(error).removeprefix(f"{utterance}: "))


def _write(
    data: DataDir,
    out_dir: Path,
    computed: Iterable[_Computed],
    settings: Settings | None,
    stage: str,
    compress: bool,
) -> FeatureSummary:
    """Write features as they come, then everything that follows from them."""
    if out_dir.resolve() == data.path.resolve():
        raise DataError(
            "the output is the input directory, whose files would be replaced",
            where=out_dir,
            remedy="Give another output directory",
        )
    started = time.monotonic()
    skipped = Skipped(stage)
    frames: dict[str, int] = {}
    dims: dict[str, int] = {}
    seconds: dict[str, float] = {}
    stats: dict[tuple[str, int], NDArray[np.float64]] = {}
    with ArchiveWriter(out_dir / "feats", compress=compress) as archive:
        for number, result in enumerate(computed, 1):
            utterance, feats = result.utterance, result.feats
            if feats is None:
                skipped.add(utterance, result.reason)
                continue
            archive.write(utterance, feats)
            frames[utterance], dims[utterance] = feats.shape
            if result.seconds is not None:
                seconds[utterance] = result.seconds
            key = (data.utt2spk[utterance], feats.shape[1])
            stats[key] = stats.get(key, 0.0) + accumulate_cmvn_stats(feats)
            if not number % _UTTERANCES_A_MESSAGE:
                logger.info("%s: %d of %d utterances", stage, number, len(data.utt2spk))
        dim = Counter(dims.values()).most_common(1)[0][0] if dims else 0
        for utterance in [utterance for utterance in dims if dims[utterance] != dim]:
            skipped.add(utterance, f"{dims[utterance]} dimensions, while most have {dim}")
            del frames[utterance]
        skipped.finish(out_dir / "skipped.txt", len(frames))
        # From here to the end, no reader must take a mixture of old and new files for a whole.
        (out_dir / "utt2spk").unlink(missing_ok=True)

    with ArchiveWriter(out_dir / "cmvn") as archive:
        for speaker, speaker_dim in sorted(stats):
            if speaker_dim == dim:
                archive.write(speaker, stats[speaker, speaker_dim])
    _write_table(out_dir / "utt2num_frames", {u: str(n) for u, n in frames.items()})
    _write_table(out_dir / "utt2dur", {u: f"{seconds[u]:.3f}" for u in frames if u in seconds})
    if settings is None:
        (out_dir / FEATURES_FILE).unlink(missing_ok=True)
    else:
        write_json(out_dir / FEATURES_FILE, settings)
    locations = read_script(out_dir / "feats.scp")
    result_data = replace(
        data.subset(frames, out_dir),
        feats={utterance: locations[utterance] for utterance in frames},
        cmvn=read_script(out_dir / "cmvn.scp"),
    )
    result_data.write()
    summary = FeatureSummary(
        data=result_data,
        frames=sum(frames.values()),
        dim=dim,
        audio_seconds=sum(seconds[u] for u in frames) if seconds else None,
        wall_seconds=time.monotonic() - started,
        skipped=skipped.reasons,
    )
    logger.info("%s: %s", stage, summary.describe())
    return summary


def _write_table(path: Path, table: dict[str, str]) -> None:
    if table:
        write_text(path, "".join(f"{key} {value}\n" for key, value in sorted(table.items())))
    else:
        path.unlink(missing_ok=True)
