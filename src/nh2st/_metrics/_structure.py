"""Structural similarity of maps on arrays of spots, of which some may be absent."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags, identity
from scipy.spatial import cKDTree

from nh2st._metrics._errors import spread

_REACH = 3.0
"""Pitches from the centre of a window to its edge: 7 x 7 spots on square arrays, as scikit-image has by default."""

_LEAST_SPOTS = 9
_K1, _K2 = 0.01, 0.03


def ssim_windows(array: np.ndarray, steps: np.ndarray) -> csr_matrix:
    """Matrix (n, n) with 1 where one spot lies in the window around another.

    Parameters
    ----------
    array
        Array row and column of each spot, shape (n, 2).
    steps
        Length of a step by one row and by one column, in units of the distance of adjacent spots: (1, 1) on square
        arrays, (0.87, 0.5) on the hexagonal one of Visium, so that windows are about as wide as high in the tissue.
    """
    reach = np.maximum(np.rint(_REACH / np.asarray(steps)), 1)
    # Half a step beyond the edge, so that rounding does not decide.
    pairs = cKDTree(array / (reach + 0.5)).query_pairs(1, p=np.inf, output_type="ndarray")
    n = len(array)
    half = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return csr_matrix(half + half.T + identity(n))


def ssim(measured: np.ndarray, predicted: np.ndarray, window: csr_matrix) -> np.ndarray:
    """Mean structural similarity of measured and predicted maps (Wang et al., IEEE Trans. Image Process. 13, 2004).

    Means, variances (with n - 1) and covariances of a window are taken over the spots that are in it, so spots that are
    absent are no zeros, and windows shrink at borders. On a full square array the value of a spot further than three
    from the border is that of :func:`skimage.metrics.structural_similarity` with the gene's range as `data_range`.

    Parameters
    ----------
    measured, predicted
        Shape (n, n_genes), in the same units.
    window
        What :func:`windows` gives, (n, n).

    Returns
    -------
    Shape (n_genes,): the mean over spots with at least nine spots in their window; NaN where there are none, and where
    the measured gene is constant.
    """
    size = np.asarray(window.sum(axis=1)).ravel()
    used = size >= _LEAST_SPOTS
    if not used.any():
        return np.full(measured.shape[1], np.nan)
    average = csr_matrix(diags(1 / size[used]) @ window[used])
    unbiased = (size[used] / (size[used] - 1))[:, None]
    x, y = measured.astype(np.float64), predicted.astype(np.float64)
    mean_x, mean_y = average @ x, average @ y
    covariance = unbiased * (average @ (x * y) - mean_x * mean_y)
    variances = unbiased * (average @ (x**2 + y**2) - mean_x**2 - mean_y**2)
    width = spread(measured)
    c1, c2 = (_K1 * width) ** 2, (_K2 * width) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean(axis=0)
