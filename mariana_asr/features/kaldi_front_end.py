"""The front end of a model that Kaldi trained, from the files that its scripts leave beside it."""

import re
from pathlib import Path
from typing import Any

from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import MATRIX_FILE, FrontEnd
from mariana_asr.features.linear import read_matrix_file
from mariana_asr.features.transform import TransformOptions
from mariana_asr.files import write_text
from mariana_asr.options import validated

_KALDI_OPTIONS = {
    "cmvn_opts": {"norm-means": "norm_means", "norm-vars": "norm_vars"},
    "delta_opts": {"delta-order": "delta_order", "delta-window": "delta_window"},
    "splice_opts": {"left-context": "splice_left", "right-context": "splice_right"},
}
"""Files of options beside a Kaldi model, and our names of what can stand in them."""


def read_kaldi_front_end(model_dir: str | Path, model_dim: int) -> FrontEnd:
    """Put together the front end of a GMM that Kaldi trained, from the files beside it.

    ``cmvn_opts``, ``delta_opts`` and ``splice_opts`` hold options where they are not Kaldi's
    defaults; a ``final.mat`` says that features are spliced and transformed, without one they
    have deltas.

    Args:
        model_dir: The directory of ``final.mdl``.
        model_dim: Dimension of its Gaussians.

    Raises:
        FormatError: A file is damaged, or they do not give the model's dimension.
    """
    model_dir = Path(model_dir)
    options: dict[str, Any] = {}
    for file, names in _KALDI_OPTIONS.items():
        options |= _read_kaldi_options(model_dir / file, names)
    matrix = None
    if (model_dir / MATRIX_FILE).exists():
        matrix = read_matrix_file(model_dir / MATRIX_FILE)
        unused, options = "delta", {"splice_left": 4, "splice_right": 4} | options
        given = matrix.shape[1]
    else:
        unused, options = "splice", {"delta_order": 2} | options
        given = model_dim
    options = {name: value for name, value in options.items() if not name.startswith(unused)}
    transform = validated(TransformOptions, options, str(model_dir))
    copies = transform.copies
    # An affine matrix has one column more.
    offset = 1 if matrix is not None and given % copies == 1 else 0
    feature_dim, rest = divmod(given - offset, copies)
    if rest or not feature_dim:
        raise FormatError(
            f"a model of {given} dimensions does not go with features that are "
            f"{copies} times their stored ones",
            where=model_dir,
            remedy="cmvn_opts, delta_opts, splice_opts and final.mat must be the model's own",
        )
    return FrontEnd(None, feature_dim, transform, matrix)


def write_kaldi_front_end(model_dir: str | Path, front_end: FrontEnd) -> None:
    """Write the files of options that Kaldi's scripts look for beside a model.

    Kaldi's scripts know per-speaker CMVN only: other kinds are not put down.
    """
    transform = front_end.transform
    means, variances = (str(flag).lower() for flag in (transform.normalises, transform.norm_vars))
    contents = {"cmvn_opts": f"--norm-means={means} --norm-vars={variances}"}
    if front_end.matrix is not None:
        contents["splice_opts"] = (
            f"--left-context={transform.splice_left} --right-context={transform.splice_right}"
        )
    else:
        contents["delta_opts"] = (
            f"--delta-order={transform.delta_order} --delta-window={transform.delta_window}"
        )
    for name, content in contents.items():
        write_text(Path(model_dir) / name, content + "\n")


def _read_kaldi_options(path: Path, names: dict[str, str]) -> dict[str, Any]:
    """Read a file of ``--option=value`` words; none where there is no file."""
    if not path.exists():
        return {}
    options: dict[str, Any] = {}
    for word in path.read_text(encoding="utf-8", errors="replace").split():
        match = re.fullmatch(r"--([a-z-]+)(?:=(.*))?", word)
        if match is None or match[1] not in names:
            raise FormatError(
                f"cannot make sense of {word!r}",
                where=path,
                remedy=f"Known are {', '.join('--' + name for name in names)}",
            )
        options[names[match[1]]] = match[2] if match[2] is not None else "true"
    return options
