"""The rungs of GMM training on AN4, as Kaldi's egs/an4/s5 has them, with Kaldi's figures."""

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.training.iterations import GmmTrainingOptions
from mariana_asr.align.training.lda_mllt import LdaMlltOptions, train_lda_mllt
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.training.sat import SatOptions, train_sat
from mariana_asr.align.training.triphone import DeltasOptions, train_deltas
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.prepare import An4Options, prepare_corpus
from mariana_asr.decode.decoder import decode
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.errors import DataError
from mariana_asr.features.extract import extract_features
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import read_lang
from mariana_asr.recipe.language import make_lang
from mariana_asr.recipe.schema import LangSection
from mariana_asr.score.tuning import choose_setting, score_settings

DECODING = DecodeOptions(
    beam=20.0,
    lattice_beam=10.0,
    first_beam=16.0,
    lm_weights=tuple(map(float, range(7, 18))),
    word_insertion_penalties=(0.0, 0.5, 1.0),
)
"""Beams of egs/an4/s5/conf/decode.config, weights and penalties of local/score.sh."""


@dataclass(frozen=True)
class Decoding:
    """A way to decode the test set with a rung's model.

    Attributes:
        name: What it is called in tables.
        adapt: Whether a speaker-adapted model is adapted to the test speakers.
        kaldi_wer: Word error rate of Kaldi's model on the same recordings, in percent.
    """

    name: str
    adapt: bool
    kaldi_wer: float


@dataclass(frozen=True)
class Rung:
    """A GMM system of the ladder.

    Attributes:
        source: The rung whose alignments it is trained on; None for a flat start.
        train: Its training function.
        options: With egs/an4/s5's sizes.
        kaldi_seconds: Least and most that Kaldi took to train it on 2 cores, in two runs.
        decodings: How it is tested.
    """

    source: str | None
    train: Callable[..., None]
    options: GmmTrainingOptions
    kaldi_seconds: tuple[int, int]
    decodings: tuple[Decoding, ...]


_SIZES: dict[str, Any] = {"num_leaves": 1800, "totgauss": 9000}

RUNGS = {
    "mono": Rung(
        None, train_mono, MonoOptions(totgauss=1000), (35, 52), (Decoding("mono", True, 12.03),)
    ),
    "tri1": Rung(
        "mono", train_deltas, DeltasOptions(**_SIZES), (24, 32), (Decoding("tri1", True, 9.96),)
    ),
    "tri2": Rung(
        "tri1", train_lda_mllt, LdaMlltOptions(**_SIZES), (34, 44), (Decoding("tri2", True, 10.09),)
    ),
    "tri3": Rung(
        "tri2",
        train_sat,
        SatOptions(**_SIZES),
        (51, 60),
        (
            Decoding("tri3, first pass", False, 8.80),
            Decoding("tri3, fMLLR", True, 6.34),
        ),
    ),
}
"""The rungs by name, each after the one that it is trained on."""


@dataclass(frozen=True)
class Prepared:
    """AN4, ready to train on."""

    train: DataDir
    test: DataDir
    lang_dir: Path


def prepare_an4(corpus_dir: Path | None, work: Path, jobs: int) -> Prepared:
    """Prepare AN4 as Kaldi's recipe does, with features without dither.

    Unlike in recipes, no training speakers are held out: Kaldi trains on all 74.
    """
    corpus = work / "corpus"
    prepare_corpus(An4Options(corpus_dir=corpus_dir), corpus)
    train, held_out = read_data_dir(corpus / "train"), read_data_dir(corpus / "dev")
    whole = replace(
        train,
        path=corpus / "all",
        utt2spk=train.utt2spk | held_out.utt2spk,
        text=train.text | held_out.text,
        wav=train.wav | held_out.wav,
        spk2gender={},
    )
    make_lang(LangSection(), corpus / "dict", (), work / "lang")
    options = MfccOptions(sample_frequency=16000, use_energy=False)
    train, test = (
        extract_features(data, work / "features" / data.path.name, options, jobs=jobs).data
        for data in (whole, read_data_dir(corpus / "test"))
    )
    return Prepared(train, test, work / "lang")


def repeated(data: DataDir, times: int, path: Path) -> DataDir:
    """The same features many times over, each time as other utterances of other speakers."""
    copies = [f"copy{number:02}-" for number in range(times)]

    def copy(table: dict[str, str] | None) -> dict[str, str]:
        return {prefix + key: value for prefix in copies for key, value in (table or {}).items()}

    return replace(
        data,
        path=path,
        utt2spk={p + u: p + speaker for p in copies for u, speaker in data.utt2spk.items()},
        text=copy(data.text),
        wav={},
        segments=None,
        feats=copy(data.feats),
        cmvn=copy(data.cmvn),
        spk2gender={},
    )


def shortened(options: GmmTrainingOptions) -> GmmTrainingOptions:
    """A schedule of a few iterations in which each kind of pass sees the full-grown model."""
    update: dict[str, Any] = {"num_iters": 5, "max_iter_inc": 2, "realign_iters": (1, 3)}
    adapting = {"mllt_iters", "fmllr_iters"} & type(options).model_fields.keys()
    return options.model_copy(update=update | dict.fromkeys(adapting, (2, 4)))


def train_rung(
    name: str, data_dir: Path, lang_dir: Path, folder: Path, options: GmmTrainingOptions, jobs: int
) -> None:
    """Train a rung into ``folder/NAME``; the one before it must be there.

    Raises:
        DataError: It is not.
    """
    rung = RUNGS[name]
    source: tuple[Path, ...] = ()
    if rung.source is not None:
        source = (folder / rung.source,)
        if not (source[0] / "final.mdl").exists():
            raise DataError(
                f"{name} is trained on the alignments of {rung.source}, which is not there",
                where=source[0],
                remedy=f"Add {rung.source} to --rungs, or name a --work folder that has it",
            )
    data, lang = read_data_dir(data_dir), read_lang(lang_dir)
    rung.train(data, lang, *source, options, folder / name, jobs=jobs)


def time_rung(
    name: str, prepared: Prepared, folder: Path, *, seed: int, jobs: int
) -> dict[str, Any]:
    """Train a rung and say how long it took.

    Returns:
        ``seconds`` of wall time, ``cpu_seconds`` of all processes together, and ``parts``:
        seconds of the iterations with and without a realignment, and of all before and after
        them (packing, tree, graphs, the last alignment, writing).
    """
    options = RUNGS[name].options.model_copy(update={"seed": seed})
    started, cpu = time.perf_counter(), _cpu_seconds()
    train_rung(name, prepared.train.path, prepared.lang_dir, folder, options, jobs)
    seconds = time.perf_counter() - started
    cpu = _cpu_seconds() - cpu
    log = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    realigning = sum(entry["seconds"] for entry in log if entry["realigned"])
    other = sum(entry["seconds"] for entry in log if not entry["realigned"])
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "parts": {
            "iterations_with_realignment": round(realigning, 2),
            "other_iterations": round(other, 2),
            "before_and_after": round(seconds - realigning - other, 2),
        },
        "gaussians": log[-1]["gaussians"],
        "log_likelihood_per_frame": log[-1]["log_likelihood_per_frame"],
    }


def decode_rung(name: str, prepared: Prepared, folder: Path, *, jobs: int) -> list[dict[str, Any]]:
    """Decode the test set in each of the rung's ways, and find the best weights on it.

    Choosing weights on the test set is what Kaldi's RESULTS do; it serves to compare, only.
    """
    model, graph = folder / name, folder / f"graph_{name}"
    make_graph(
        prepared.lang_dir,
        read_tree(model / "tree"),
        read_transition_model(model / "final.mdl"),
        graph,
    )
    results = []
    for decoding in RUNGS[name].decodings:
        out = folder / f"decode_{name}" / ("adapted" if decoding.adapt else "unadapted")
        options = DECODING.model_copy(update={"adapt": decoding.adapt})
        started = time.perf_counter()
        summary = decode(prepared.test, model, graph, out, options, jobs=jobs)
        counts = score_settings(out, prepared.test, "word")
        setting = choose_setting(counts)
        results.append(
            {
                "decoding": decoding.name,
                "wer": round(counts[setting].percent, 2),
                "errors": counts[setting].errors,
                "words": counts[setting].tokens,
                "lm_weight": setting[0],
                "word_insertion_penalty": setting[1],
                "kaldi_wer": decoding.kaldi_wer,
                "seconds": round(time.perf_counter() - started, 2),
                "real_time_factor": round(summary.rtf, 4),
            }
        )
    return results


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
