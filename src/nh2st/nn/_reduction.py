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
    normalize
        What is first done to each feature within its section: ``"center"`` brings it to mean 0, ``"standardize"`` also
        to standard deviation 1, ``"none"`` leaves it. No label takes part in it, so that it is done for new sections
        too; it takes away what stain and scanner add to all spots.

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

    def __init__(self, n_features: int, n_components: int, *, normalize: str = "center") -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("components", torch.zeros(n_features, n_components))

    def fit(self, sections: Sequence[Sequence[np.ndarray]], rows: Sequence[np.ndarray] | None = None) -> None:
        """Find the components of the spots of some sections.

        Parameters
        ----------
        sections
            Of each section the features (n, C) in each patch scale, which are joined.
        rows
            Positions of the spots of each section that have a part; all where absent. Sections are normalised over all
            their spots.
        """
        chosen = rows if rows is not None else [np.arange(len(parts[0])) for parts in sections]
        features = [
            np.concatenate([self._normalized(part, which) for part in parts], axis=1)
            for parts, which in zip(sections, chosen, strict=True)
        ]
        values = torch.from_numpy(np.concatenate(features)).double()
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
        if (given := sum(part.shape[1] for part in parts)) != len(self.mean):
            msg = f"The components are those of {len(self.mean)} features; the {len(parts)} parts have {given}."
            raise ValueError(msg)
        tokens = self.part(0, parts[0])
        for number, features in enumerate(parts[1:], start=1):
            tokens += self.part(number, features)
        return tokens

    def part(self, scale: int, features: np.ndarray) -> np.ndarray:
        """Give what the features (n, C) of one section in one patch scale, by its number, add to the tokens."""
        columns = slice(scale * features.shape[1], (scale + 1) * features.shape[1])
        mean, components = self.mean[columns].cpu().numpy(), self.components[columns].cpu().numpy()
        chunks = np.split(np.arange(len(features)), range(_ROWS, len(features), _ROWS))
        moments = self._moments(features)
        return np.concatenate([(_scaled(features[rows], moments) - mean) @ components for rows in chunks])

    def _normalized(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Some rows in float32, normalised by the moments of all."""
        return _scaled(features[rows], self._moments(features))

    def _moments(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is taken from each feature, and what it is then multiplied with."""
        n_features = features.shape[1]
        if self.normalize == "none":
            return np.zeros(n_features, dtype=np.float32), np.ones(n_features, dtype=np.float32)
        mean = sum(chunk.sum(axis=0) for chunk in _chunks(features)) / len(features)
        if self.normalize == "center":
            return mean.astype(np.float32), np.ones(n_features, dtype=np.float32)
        deviation = np.sqrt(sum(((chunk - mean) ** 2).sum(axis=0) for chunk in _chunks(features)) / len(features))
        varies = deviation > _LEAST_DEVIATION * np.maximum(np.abs(mean), 1)
        return mean.astype(np.float32), np.where(varies, 1 / np.where(varies, deviation, 1), 0).astype(np.float32)


def _chunks(features: np.ndarray) -> Iterator[np.ndarray]:
    """A few thousand rows at a time in double precision, as the features of a whole slide are large."""
    for start in range(0, len(features), _ROWS):
        yield features[start : start + _ROWS].astype(np.float64)


def _scaled(features: np.ndarray, moments: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    mean, scale = moments
    return (features.astype(np.float32) - mean) * scale


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
