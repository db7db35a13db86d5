"""The E step and the scores of GMMs on a GPU.

torch takes seconds to import, so that it is imported only once a GPU is known to be wanted.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm.gaussians import DiagGmms, Floats
from mariana_asr.errors import StageError

if TYPE_CHECKING:
    import torch

    from mariana_asr.align.gmm.estimation import GmmStats

DeviceName = Literal["auto", "cpu", "cuda"]

BLOCK_FRAMES = 32
"""Frames of one pdf that are taken together; what is missing to a whole block is padded."""

_FLOATS_AT_ONCE = 2**26
"""About how many numbers an intermediate result may have: 256 MiB."""

_NEVER = -1e30
"""Log-weight of Gaussians that only pad a pdf. Not minus infinity: times 0 that is not a number."""

_DRIVER_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Where Linux shows the drivers of GPUs that torch can use."""


def find_gpu(name: DeviceName) -> "torch.device | None":
    """The GPU that ``auto``, ``cpu`` or ``cuda`` names on this machine; None for its processor.

    Raises:
        StageError: A GPU is asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and not _has_driver()):
        return None
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        raise StageError(
            "the device is to be cuda, but torch finds no GPU", remedy="Use the device auto or cpu"
        )
    return None


def _has_driver() -> bool:
    if sys.platform == "linux":
        return any(Path(file).exists() for file in _DRIVER_FILES)
    return sys.platform == "win32"


@lru_cache(maxsize=1)
def on_device(gmms: DiagGmms, device: "torch.device | str") -> "DeviceGmms":
    """Bring a model to a device, where it stays until another one is brought."""
    return DeviceGmms(gmms, device)


@dataclass(frozen=True)
class _Bucket:
    """Pdfs of about equally many Gaussians, padded to K of them.

    Attributes:
        pdfs: Their ids, shape (n,).
        coefficients: Coefficients of [1, x, x squared], shape (n, K, 1 + 2 D).
        rows: Index of each Gaussian among all, their number G for padding; shape (n, K).
    """

    pdfs: NDArray[np.int64]
    coefficients: "torch.Tensor"
    rows: "torch.Tensor"


class DeviceGmms:
    """GMMs on a device, for sums and scores as of DiagGmms and GmmStats but for rounding.

    Blocks of frames of one pdf are multiplied by its Gaussians, all blocks of similarly large
    pdfs at once. Products are in single precision; sums over blocks are in double, in an order
    that does not change from run to run.
    """

    def __init__(self, gmms: DiagGmms, device: "torch.device | str") -> None:
        import torch

        self.num_pdfs, self.num_gaussians, self.dim = gmms.num_pdfs, gmms.num_gaussians, gmms.dim
        self._device = torch.device(device)
        padding = np.zeros((1, 1 + 2 * gmms.dim), dtype=np.float32)
        padding[0, 0] = _NEVER
        coefficients = self._to_device(np.concatenate([gmms.coefficients, padding]))
        coefficients[:, 0].clamp_(min=_NEVER)
        self._buckets: list[_Bucket] = []
        self._bucket_of_pdf = np.empty(gmms.num_pdfs, dtype=np.int64)
        self._place_of_pdf = np.empty(gmms.num_pdfs, dtype=np.int64)
        padded = _padded_counts(gmms.counts)
        for number, size in enumerate(np.unique(padded)):
            pdfs = np.flatnonzero(padded == size)
            grid = np.arange(size)
            rows = np.where(
                grid < gmms.counts[pdfs, None],
                gmms.offsets[pdfs, None] + grid,
                gmms.num_gaussians,
            )
            self._bucket_of_pdf[pdfs] = number
            self._place_of_pdf[pdfs] = np.arange(len(pdfs))
            own = self._to_device(rows)
            self._buckets.append(_Bucket(pdfs, coefficients[own], own))

    def log_likelihoods(
        self,
        feats: NDArray[np.floating],
        pdfs: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> Floats:
        """Log-likelihood of every frame under every pdf, or those given; (T, D) to (T, P)."""
        import torch

        pdfs = np.arange(self.num_pdfs) if pdfs is None else np.asarray(pdfs, dtype=np.int64)
        frames = self._expand(feats)[:-1]
        log_likes = torch.empty((len(pdfs), len(frames)), device=self._device)
        for number, bucket in enumerate(self._buckets):
            columns = np.flatnonzero(self._bucket_of_pdf[pdfs] == number)
            if not len(columns):
                continue
            coefficients = bucket.coefficients[self._to_device(self._place_of_pdf[pdfs[columns]])]
            size = coefficients.shape[1]
            own = torch.empty((len(columns), len(frames)), device=self._device)
            step = max(1, _FLOATS_AT_ONCE // (len(columns) * size))
            for start in range(0, len(frames), step):
                scores = coefficients.flatten(0, 1) @ frames[start : start + step].T
                own[:, start : start + step] = scores.unflatten(0, (-1, size)).logsumexp(dim=1)
            log_likes[self._to_device(columns)] = own
        return log_likes.T.contiguous().cpu().numpy()

    def accumulate(
        self,
        stats: "GmmStats",
        feats: NDArray[np.floating],
        pdfs: NDArray[np.integer],
        *,
        summed: NDArray[np.floating] | None = None,
    ) -> None:
        """E step, as :meth:`GmmStats.accumulate`. The more frames in one call, the faster."""
        import torch

        if not len(feats):
            return
        scored = self._expand(feats)
        added = scored if summed is None else self._expand(summed)
        dim = scored.shape[1]
        sums = torch.zeros((self.num_gaussians + 1, dim), dtype=torch.float64, device=self._device)
        log_like = torch.zeros((), dtype=torch.float64, device=self._device)
        for bucket, places, frames in self._blocks(pdfs):
            block = scored[frames]
            scores = torch.bmm(bucket.coefficients[places], block.mT)
            # The first column is 1 for a frame and 0 for padding.
            log_like += (scores.logsumexp(dim=1) * block[..., 0]).sum(dtype=torch.float64)
            if added is not scored:
                block = added[frames]
            block_sums = torch.bmm(scores.softmax(dim=1), block).double()
            own, blocks = places.unique_consecutive(return_counts=True)
            pdf_sums = torch.segment_reduce(block_sums.flatten(1), "sum", lengths=blocks)
            sums[bucket.rows[own].flatten()] += pdf_sums.view(-1, dim)
        stats.sums += sums[:-1].cpu().numpy()
        stats.log_like += float(log_like)
        stats.frames += len(feats)

    def _blocks(
        self, pdfs: NDArray[np.integer]
    ) -> Iterator[tuple[_Bucket, "torch.Tensor", "torch.Tensor"]]:
        """Cut frames into blocks of one pdf each, as many at once as there is memory for.

        Yields a bucket, the place of each block's pdf in it (N,), in ascending order; and the
        blocks' frames (N, BLOCK_FRAMES), the number of all frames standing for padding.
        """
        order = np.append(np.argsort(pdfs, kind="stable"), len(pdfs))
        counts = np.bincount(pdfs, minlength=self.num_pdfs)
        ends = np.cumsum(counts)
        for bucket in self._buckets:
            present = np.flatnonzero(counts[bucket.pdfs])
            blocks = -(-counts[bucket.pdfs[present]] // BLOCK_FRAMES)
            places = np.repeat(present, blocks)
            number = np.arange(len(places)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
            end = ends[bucket.pdfs[places], None]
            start = end - counts[bucket.pdfs[places], None] + BLOCK_FRAMES * number[:, None]
            frames = start + np.arange(BLOCK_FRAMES)
            frames = order[np.where(frames < end, frames, len(pdfs))]
            size, dim = bucket.coefficients.shape[1:]
            floats = dim * (BLOCK_FRAMES + 5 * size) + 2 * size * BLOCK_FRAMES
            step = max(1, _FLOATS_AT_ONCE // floats)
            for first in range(0, len(places), step):
                yield (
                    bucket,
                    self._to_device(places[first : first + step]),
                    self._to_device(frames[first : first + step]),
                )

    def _expand(self, feats: NDArray[np.floating]) -> "torch.Tensor":
        """[1, x, x squared] of every frame, and a row of zeros; (T, D) to (T + 1, 1 + 2 D)."""
        import torch

        if feats.ndim != 2 or feats.shape[1] != self.dim:
            raise ValueError(f"features of shape {feats.shape} for a model of dim {self.dim}")
        expanded = torch.zeros((len(feats) + 1, 1 + 2 * self.dim), device=self._device)
        frames = self._to_device(np.array(feats, dtype=np.float32))
        expanded[:-1, 0] = 1
        expanded[:-1, 1 : self.dim + 1] = frames
        expanded[:-1, self.dim + 1 :] = frames.square()
        return expanded

    def _to_device(self, array: NDArray[np.generic]) -> "torch.Tensor":
        import torch

        return torch.from_numpy(array).to(self._device)


def _padded_counts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round up so that few different numbers are left, none more than a quarter too large."""
    exponents = np.frexp(counts)[1]
    unit = 2 ** np.maximum(exponents - 3, 0)
    return -(-counts // unit) * unit
