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
        chosen = rows if rows is not None else [np.arange(len(parts[0])) for parts in sections]
        pairs = zip(sections, chosen, strict=True)
        features = [
            np.concatenate([np.concatenate(list(self._chunks(part)))[which] for part in parts], axis=1)
            for parts, which in pairs
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
        return np.concatenate([(chunk - mean) @ components for chunk in self._chunks(features)])

    def _chunks(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Features in float32, a few thousand rows at a time, as those of a whole slide are large."""
        mean, scale = _moments(features) if self.standardize else (np.float32(0), np.float32(1))
        for start in range(0, len(features), _ROWS):
            yield (features[start : start + _ROWS].astype(np.float32) - mean) * scale


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
