"""Results of an experiment: ``results.json`` for programs, ``RESULTS`` in Kaldi's form."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mariana_asr.errors import FormatError
from mariana_asr.files import read_json, write_json, write_text
from mariana_asr.score.error_counts import ErrorCounts, Unit

Metric = Literal["wer", "cer"]
"""``wer``: word error rate; ``cer``: character error rate."""

TunedOn = Literal["dev", "test", "itself", "fixed"]
"""Where the language-model weight and the word insertion penalty come from.

``dev``: chosen on the dev set. ``test``: chosen on the test set itself, only to compare with
figures of Kaldi's recipes. ``itself``: the row of the dev set, with the weights chosen there; it
is for choosing between systems. ``fixed``: fixed beforehand, where there is no dev set."""

UNITS: dict[Metric, Unit] = {"wer": "word", "cer": "char"}

RESULTS_JSON, RESULTS_TEXT = "results.json", "RESULTS"

_COUNTS = ("errors", "tokens", "ins", "del", "sub")


@dataclass(frozen=True)
class Result:
    """An error rate of one system on one set.

    Attributes:
        system: Name of the system, such as ``mono`` or ``dnn``.
        test_set: Name of the set.
        metric: Which error rate.
        percent: The error rate, in percent.
        errors: Number of errors.
        tokens: Words or characters in the references.
        ins: Insertions.
        del_: Deletions; ``del`` in JSON.
        sub: Substitutions.
        rtf: Real-time factor of decoding in one process.
        tuned_on: Where the decoding weights come from.
        lm_weight: The language-model weight; not in JSON, None if unknown.
        penalty: The word insertion penalty; not in JSON, None if unknown.
        parameters: Number of a network's parameters; None for a GMM.
        frames_per_second: Frames that a network was trained on a second; None for a GMM.
    """

    system: str
    test_set: str
    metric: Metric
    percent: float
    errors: int
    tokens: int
    ins: int
    del_: int
    sub: int
    rtf: float
    tuned_on: TunedOn
    lm_weight: float | None = None
    penalty: float | None = None
    parameters: int | None = None
    frames_per_second: float | None = None

    @property
    def name(self) -> str:
        """What stands behind the figures in RESULTS: system, test set and decoding weights."""
        weights = ""
        if self.lm_weight is not None and self.penalty is not None:
            weights = f" lmwt={self.lm_weight:g} wip={self.penalty:g}"
        origin = "fixed weights" if self.tuned_on == "fixed" else f"tuned on {self.tuned_on}"
        return f"{self.system}/{self.test_set}{weights} ({origin})"

    @property
    def counts(self) -> ErrorCounts:
        """The counts alone."""
        return ErrorCounts(self.errors, self.tokens, self.ins, self.del_, self.sub)

    def to_json(self) -> dict[str, Any]:
        """The result as ``results.json`` holds it; what is not known of it is left out."""
        network = {
            "parameters": self.parameters,
            "frames_per_second": self.frames_per_second,
        }
        return {
            "system": self.system,
            "test_set": self.test_set,
            "metric": self.metric,
            "percent": self.percent,
            "errors": self.errors,
            "tokens": self.tokens,
            "ins": self.ins,
            "del": self.del_,
            "sub": self.sub,
            "rtf": self.rtf,
            "tuned_on": self.tuned_on,
            **{key: value for key, value in network.items() if value is not None},
        }


def kaldi_line(counts: ErrorCounts, name: str = "", metric: Metric = "wer") -> str:
    """A line like those of Kaldi's RESULTS: ``%WER 13.58 [ 105 / 773, 11 ins, ... ] name``."""
    line = (
        f"%{metric.upper()} {counts.percent:.2f} [ {counts.errors} / {counts.tokens}, "
        f"{counts.ins} ins, {counts.del_} del, {counts.sub} sub ]"
    )
    return f"{line} {name}".rstrip()


def write_results(out_dir: str | Path, results: Iterable[Result]) -> None:
    """Write ``results.json`` and ``RESULTS`` into a folder."""
    out_dir, results = Path(out_dir), list(results)
    lines = [kaldi_line(result.counts, result.name, result.metric) for result in results]
    write_text(out_dir / RESULTS_TEXT, "".join(f"{line}\n" for line in lines))
    write_json(out_dir / RESULTS_JSON, [result.to_json() for result in results])


def read_results(path: str | Path) -> list[Result]:
    """Read a ``results.json``, or that of a folder.

    Raises:
        FormatError: The file is missing, is not JSON or holds something else.
    """
    path = Path(path)
    path = path / RESULTS_JSON if path.is_dir() else path
    tree = read_json(path)
    if not isinstance(tree, list):
        raise FormatError("expected a list of results", where=path)
    return [_parse_result(entry, f"{path}: result {i}") for i, entry in enumerate(tree, 1)]


def _parse_result(entry: Any, where: str) -> Result:
    try:
        counts = {key: int(entry[key]) for key in _COUNTS}
        metric, tuned_on = entry["metric"], entry["tuned_on"]
        if metric not in UNITS or tuned_on not in get_args(TunedOn):
            raise ValueError(f"metric {metric!r}, tuned_on {tuned_on!r}")
        return Result(
            system=str(entry["system"]),
            test_set=str(entry["test_set"]),
            metric=cast(Metric, metric),
            percent=float(entry["percent"]),
            errors=counts["errors"],
            tokens=counts["tokens"],
            ins=counts["ins"],
            del_=counts["del"],
            sub=counts["sub"],
            rtf=float(entry["rtf"]),
            tuned_on=cast(TunedOn, tuned_on),
            parameters=int(entry["parameters"]) if "parameters" in entry else None,
            frames_per_second=(
                float(entry["frames_per_second"]) if "frames_per_second" in entry else None
            ),
        )
    except KeyError as error:
        raise FormatError(f"no key {error}", where=where) from error
    except (TypeError, ValueError) as error:
        raise FormatError(f"not a result: {error}", where=where) from error
