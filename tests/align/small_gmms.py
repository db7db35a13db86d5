"""Small models with random parameters, and posteriors under them computed plainly."""

import numpy as np

from mariana_asr.align.gmm.gaussians import DiagGmms, offsets_of

COUNTS = [2, 1, 4, 3]


def random_gmms(dim: int, seed: int = 0, counts: list[int] = COUNTS, spread: float = 2) -> DiagGmms:
    random = np.random.default_rng(seed)
    total = sum(counts)
    return DiagGmms.from_moments(
        np.concatenate([random.dirichlet(np.full(n, 5.0)) for n in counts]),
        random.normal(size=(total, dim)) * spread,
        random.uniform(0.5, 2, size=(total, dim)),
        offsets_of(counts),
    )


def sample(gmms: DiagGmms, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Frames drawn from the model, and the pdf of each."""
    random = np.random.default_rng(seed)
    pdfs = random.integers(gmms.num_pdfs, size=count)
    feats = np.empty((count, gmms.dim), dtype=np.float32)
    for t, pdf in enumerate(pdfs):
        weights = gmms.weights[gmms.offsets[pdf] : gmms.offsets[pdf + 1]].astype(np.float64)
        gaussian = gmms.offsets[pdf] + random.choice(len(weights), p=weights / weights.sum())
        noise = random.normal(size=gmms.dim)
        feats[t] = gmms.means[gaussian] + noise * np.sqrt(gmms.variances[gaussian])
    return feats, pdfs


def log_densities(gmms: DiagGmms, frame: np.ndarray, pdf: int) -> np.ndarray:
    """Log of weight times density of each Gaussian of a pdf, in double precision."""
    own = slice(gmms.offsets[pdf], gmms.offsets[pdf + 1])
    means, variances = gmms.means[own], gmms.variances[own]
    distances = (np.square(frame - means) / variances + np.log(2 * np.pi * variances)).sum(axis=1)
    return np.log(gmms.weights[own].astype(np.float64)) - 0.5 * distances


def slow_posteriors(gmms: DiagGmms, frame: np.ndarray, pdf: int) -> np.ndarray:
    densities = np.exp(log_densities(gmms, frame.astype(np.float64), pdf))
    return densities / densities.sum()


def log_likelihood(gmms: DiagGmms, feats: np.ndarray, pdfs: np.ndarray) -> float:
    """Of all frames under the pdfs they are aligned to."""
    return float(
        sum(
            np.log(np.exp(log_densities(gmms, frame, pdf)).sum())
            for frame, pdf in zip(feats.astype(np.float64), pdfs, strict=True)
        )
    )
