from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

_ROWS = 16_384
_LEAST_DEVIATION = 1e-6


class Reduction(nn.Module):
    """Principal components of features, in units of the first one's standard deviation: the tokens of the spots.

    Parameters
    ----------
    n_features
        Number of features of a spot.
    n_components
        Components kept; those beyond the rank of the features that they were fitted on are 0.
    standardize
        Whether each feature is first brought to mean 0 and standard deviation 1 within its section. No label takes part
        in it, so that it is done for new sections too; it takes away what stain and scanner add to all spots.

    Examples
    --------
    >>> import numpy as np
    >>> from nh2st.nn import Reduction
    >>> features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    >>> reduction = Reduction(6, 2)
    >>> reduction.fit([[features]])
    >>> reduction.tokens([features]).shape
    (50, 2)
    """

    mean: Tensor
    components: Tensor

    def __init__(self, n_features: int, n_components: int, *, standardize: bool = True) -> None:
        super().__init__()
        self.standardize = standardize
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("components", torch.zeros(n_features, n_components))

    def fit(self, sections: Sequence[Sequence[np.ndarray]], rows: Sequence[np.ndarray] | None = None) -> None:
        """Find the components of the spots of some sections.

        Parameters
        ----------
        sections
            Of each section the features (n, C) in each patch scale, which are joined.
        rows
            Positions of the spots of each section that have a part; all where absent. The standardisation is over all.
        """
        chosen = [slice(None)] * len(sections) if rows is None else rows
        pairs = zip(sections, chosen, strict=True)
        features = np.concatenate([np.concatenate(list(self._chunks(parts)))[which] for parts, which in pairs])
        values = torch.from_numpy(features).double()
        mean = values.mean(dim=0)
        components = _principal_components(values - mean, self.components.shape[1])
        self.mean.copy_(mean)
        self.components.zero_()
        self.components[:, : components.shape[1]] = components.float()

    def tokens(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Give the tokens of all spots of one section.

        Parameters
        ----------
        parts
            Features (n, C) in each patch scale, of any floating type.

        Returns
        -------
        Tokens (n, n_components), float32.
        """
        mean, components = self.mean.cpu().numpy(), self.components.cpu().numpy()
        return np.concatenate([(chunk - mean) @ components for chunk in self._chunks(parts)])

    def _chunks(self, parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Joined features in float32, a few thousand rows at a time, as those of a whole slide are large."""
        moments = [_moments(part) if self.standardize else (0.0, 1.0) for part in parts]
        for start in range(0, len(parts[0]), _ROWS):
            rows = [
                (part[start : start + _ROWS].astype(np.float32) - mean) * scale
                for part, (mean, scale) in zip(parts, moments, strict=True)
            ]
            yield np.concatenate(rows, axis=1)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and inverse of the standard deviation, 0 for features that are constant."""
    chunks = [features[start : start + _ROWS].astype(np.float64) for start in range(0, len(features), _ROWS)]
    mean = sum(chunk.sum(axis=0) for chunk in chunks) / len(features)
    deviation = np.sqrt(sum(((chunk - mean) ** 2).sum(axis=0) for chunk in chunks) / len(features))
    varies = deviation > _LEAST_DEVIATION * np.maximum(np.abs(mean), 1)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def _principal_components(centered: Tensor, n_components: int) -> Tensor:
    """Directions (n_features, k) of most variance, over the standard deviation along the first."""
    n, n_features = centered.shape
    wide = n < n_features
    variances, vectors = torch.linalg.eigh((centered @ centered.T if wide else centered.T @ centered) / n)
    kept = variances.flip(0)[:n_components] > 1e-10 * variances[-1].clamp(min=1e-30)
    vectors = vectors.flip(1)[:, :n_components][:, kept]
    directions = nn.functional.normalize(centered.T @ vectors, dim=0) if wide else vectors
    # The sign of a component is arbitrary, and may differ between machines.
    largest = directions.abs().argmax(dim=0)
    signs = torch.sign(directions[largest, torch.arange(directions.shape[1])])
    return directions * signs / variances[-1].clamp(min=1e-30).sqrt()
