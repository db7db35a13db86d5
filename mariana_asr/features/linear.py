"""Linear and affine transforms of features: LDA, MLLT and fMLLR matrices, and their files."""

from collections.abc import Mapping
from pathlib import Path

import kaldiio
import numpy as np
from numpy.typing import NDArray

from mariana_asr.archives import iterate_matrices
from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import atomic_file


def apply_linear(feats: NDArray[np.float32], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Transform features (Kaldi: transform-feats).

    Args:
        feats: Features, shape (T, D).
        matrix: Linear, shape (E, D), or affine, shape (E, D + 1) with the offset last.

    Returns:
        Shape (T, E).

    Raises:
        DataError: The dimensions disagree.
    """
    dim = feats.shape[1]
    if matrix.ndim != 2 or matrix.shape[1] not in (dim, dim + 1):
        raise DataError(
            f"a transform of shape {matrix.shape} does not fit features of {dim} dimensions"
        )
    single = matrix.astype(np.float32, copy=False)
    transformed: NDArray[np.float32] = feats @ single[:, :dim].T
    if matrix.shape[1] > dim:
        transformed += single[:, dim]
    return transformed


def compose_affine(
    after: NDArray[np.floating], before: NDArray[np.floating]
) -> NDArray[np.float32]:
    """The transform that does what ``before`` and then ``after`` do.

    Args:
        after: Shape (E, D) or, with an offset, (E, D + 1).
        before: Shape (D, C) or (D, C + 1): linear or affine is all the same here
            (Kaldi: compose-transforms --b-is-affine=true where it is affine).

    Returns:
        As many columns as ``before`` has. An affine ``after`` needs an affine ``before``.
    """
    linear = after[:, : len(before)].astype(np.float64)
    composed = linear @ before.astype(np.float64)
    if after.shape[1] > len(before):
        composed[:, -1] += after[:, -1]
    return composed.astype(np.float32)


def read_matrix_file(path: str | Path) -> NDArray[np.float32]:
    """Read a file that holds one matrix, binary or text, such as Kaldi's ``final.mat``.

    Raises:
        FormatError: It is missing, damaged, or has a value that is no number.
    """
    try:
        matrix = kaldiio.load_mat(str(path))
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}", where=path) from error
    except Exception as error:  # kaldiio raises whatever the bytes lead it to
        raise FormatError("not a matrix in Kaldi's format", where=path) from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not matrix.size:
        raise FormatError("not a matrix in Kaldi's format", where=path)
    if not np.isfinite(matrix).all():
        raise FormatError("the matrix has NaN or infinite values", where=path)
    return matrix.astype(np.float32, copy=False)


def write_matrix_file(path: str | Path, matrix: NDArray[np.floating]) -> None:
    """Write one matrix in Kaldi's binary form, single precision, atomically."""
    with atomic_file(path) as temporary:
        kaldiio.save_mat(str(temporary), np.asarray(matrix, dtype=np.float32))


def read_speaker_transforms(path: str | Path) -> dict[str, NDArray[np.float32]] | None:
    """Read the fMLLR transforms of speakers: those of a directory (``trans.*``), or one archive.

    Returns:
        Speaker to matrix (D, D + 1); None where a directory has none.

    Raises:
        DataError: An archive is missing or damaged.
    """
    path = Path(path)
    files = sorted(path.glob("trans.*")) if path.is_dir() else [path]
    transforms = {speaker: matrix for file in files for speaker, matrix in iterate_matrices(file)}
    return transforms or None


def require_speaker_transforms(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """As ``read_speaker_transforms``, but that there are none is an error.

    Raises:
        FormatError: A directory has none.
        DataError: An archive is missing or damaged.
    """
    transforms = read_speaker_transforms(path)
    if transforms is None:
        raise FormatError(
            "no trans.* here, so there are no transforms of speakers",
            where=path,
            remedy="Name the folder of an alignment or a decoding with speaker-adapted GMMs",
        )
    return transforms


def write_speaker_transforms(
    out_dir: str | Path, transforms: Mapping[str, NDArray[np.floating]]
) -> None:
    """Write speakers' transforms as ``trans.1``, where Kaldi's scripts look for them."""
    with atomic_file(Path(out_dir) / "trans.1") as temporary:
        single = {speaker: np.float32(transforms[speaker]) for speaker in sorted(transforms)}
        kaldiio.save_ark(str(temporary), single)
