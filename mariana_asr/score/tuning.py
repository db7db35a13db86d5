"""Choosing the language-model weight and the word insertion penalty, on the dev set only."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mariana_asr.corpus.datadir import DataDir, read_table
from mariana_asr.decode.decoder import hypothesis_file, read_decode_record
from mariana_asr.errors import DataError, StageError
from mariana_asr.score.error_counts import ErrorCounts, Unit, score_texts
from mariana_asr.score.results import UNITS, Metric, Result, TunedOn

logger = logging.getLogger(__name__)

Setting = tuple[float, float]
"""A language-model weight and a word insertion penalty."""

DecodedSet = tuple[Path, DataDir]
"""The folder of a decoding, and the data directory that was decoded, with its transcripts."""

DEV_SET = "dev"
"""Name of the dev set in results."""

DEFAULT_SETTING: Setting = (10.0, 0.0)
"""Used where there is no dev set to choose on."""


def score_settings(decode_dir: Path, data: DataDir, unit: Unit) -> dict[Setting, ErrorCounts]:
    """Count the errors of a decoding under every setting that it has hypotheses for.

    Raises:
        FormatError: The decoding is not finished.
        DataError: A hypothesis file is missing or damaged, or the utterances do not fit.
        StageError: The references hold no words at all, so there is no error rate.
    """
    options = read_decode_record(decode_dir).options
    counts = {}
    for setting in options.settings:
        path = hypothesis_file(decode_dir, *setting)
        try:
            counts[setting] = score_texts(data.text, read_table(path), unit)
        except DataError as error:
            raise DataError(error.what, where=error.where or path, remedy=error.remedy) from error
    if not next(iter(counts.values())).tokens:
        raise StageError("the reference transcripts hold no words", where=data.path / "text")
    return counts


def choose_setting(counts: Mapping[Setting, ErrorCounts]) -> Setting:
    """Choose the setting with the fewest errors.

    Where several have as few, the one wins whose neighbours in the grid (weight and penalty one
    step up or down) have the fewest errors on average, since a lone minimum is more likely luck;
    then the lowest penalty, then the lowest weight.
    """
    weights = sorted({weight for weight, _ in counts})
    penalties = sorted({penalty for _, penalty in counts})

    def rank(setting: Setting) -> tuple[float, float, float, float]:
        weight, penalty = setting
        row, column = weights.index(weight), penalties.index(penalty)
        around = [
            counts[w, p].errors
            for w in weights[max(0, row - 1) : row + 2]
            for p in penalties[max(0, column - 1) : column + 2]
            if (w, p) in counts
        ]
        return counts[setting].errors, sum(around) / len(around), penalty, weight

    return min(counts, key=rank)


def score_decodes(
    system: str,
    dev: DecodedSet | None,
    tests: Mapping[str, DecodedSet],
    metrics: Sequence[Metric] = ("wer",),
) -> list[Result]:
    """Score a system's decodings of its dev and test sets.

    For each metric and test set there are two results: the headline, with the weight and penalty
    that do best on the dev set (``tuned_on`` is ``dev``), and the one with those that do best on
    the test set itself (``test``), which only serves to compare with figures of Kaldi's recipes.
    Without a dev set the headline has the setting nearest to LM weight 10 and penalty 0
    (``tuned_on`` is ``fixed``). After them comes the dev set's own result (``itself``).

    Args:
        system: Name of the system.
        dev: The decoded dev set, if there is one.
        tests: Name of each test set to its decoding.
        metrics: Error rates to compute.

    Raises:
        DataError: Hypotheses are missing or damaged, or do not belong to the references.
        FormatError: A decoding is not finished.
        StageError: References hold no words, or dev and test were decoded with other settings.
    """
    results = []
    for metric in metrics:
        chosen: Setting | None = None
        dev_results = []
        if dev is not None:
            dev_counts = score_settings(*dev, UNITS[metric])
            chosen = choose_setting(dev_counts)
            rtf = read_decode_record(dev[0]).rtf
            dev_results = [_result(system, DEV_SET, metric, dev_counts, rtf, "itself", chosen)]
            logger.info(
                "%s: LM weight %g and penalty %g do best on the dev set: %s %.2f%%",
                system,
                *chosen,
                metric.upper(),
                dev_counts[chosen].percent,
            )
        for test_set, (decode_dir, data) in tests.items():
            counts = score_settings(decode_dir, data, UNITS[metric])
            rtf = read_decode_record(decode_dir).rtf
            headline = _nearest(counts, DEFAULT_SETTING) if chosen is None else chosen
            if headline not in counts:
                raise StageError(
                    f"the dev set chose LM weight {headline[0]:g} and penalty {headline[1]:g}, "
                    "with which the test set was not decoded",
                    where=decode_dir,
                    remedy="Decode both sets with the same lm_weights and penalties",
                )
            rows: list[tuple[TunedOn, Setting]] = [
                ("fixed" if chosen is None else "dev", headline),
                ("test", choose_setting(counts)),
            ]
            for tuned_on, setting in rows:
                results.append(_result(system, test_set, metric, counts, rtf, tuned_on, setting))
        results += dev_results
    if dev is None:
        logger.warning(
            "%s: there is no dev set, so the decoding weights are fixed, not tuned", system
        )
    return results


def _nearest(counts: Mapping[Setting, ErrorCounts], wanted: Setting) -> Setting:
    return min(counts, key=lambda s: (abs(s[0] - wanted[0]), abs(s[1] - wanted[1]), s))


def _result(
    system: str,
    test_set: str,
    metric: Metric,
    counts: Mapping[Setting, ErrorCounts],
    rtf: float,
    tuned_on: TunedOn,
    setting: Setting,
) -> Result:
    chosen = counts[setting]
    return Result(
        system=system,
        test_set=test_set,
        metric=metric,
        percent=round(chosen.percent, 2),
        errors=chosen.errors,
        tokens=chosen.tokens,
        ins=chosen.ins,
        del_=chosen.del_,
        sub=chosen.sub,
        rtf=rtf,
        tuned_on=tuned_on,
        lm_weight=setting[0],
        penalty=setting[1],
    )
