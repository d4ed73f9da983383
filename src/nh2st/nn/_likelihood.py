from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_LOG_RATIO = 10.0
_LARGEST_LOG_DISPERSION = 6.0
"""Beyond it a negative binomial is a Poisson distribution but for the rounding of its gradient."""


def log_ratio(signal: Tensor) -> Tensor:
    """Signal of a count likelihood within bounds, so that its exponential is finite."""
    return signal.float().clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)


def count_loss(signal: Tensor, counts: Tensor, log_expected: Tensor, log_dispersion: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of counts whose expectation is `exp(log_expected + signal)`, without constant terms.

    Parameters
    ----------
    signal
        Log ratio (B, G) of the expected counts to what is expected without a look at the image.
    counts
        Counts (B, G).
    log_expected
        Logarithm (B, G) of the expectation without a look at the image: library size times the gene's mean share.
    log_dispersion
        Logarithm (G,) of the inverse dispersion of a negative binomial (variance = mean + mean^2 / dispersion); a
        Poisson distribution where absent.

    Returns
    -------
    Mean over all elements.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import count_loss
    >>> count_loss(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1))
    tensor(1.)
    """
    log_mean = log_expected + log_ratio(signal)
    if log_dispersion is None:
        return (log_mean.exp() - counts * log_mean).mean()
    log_dispersion = log_dispersion.clamp(max=_LARGEST_LOG_DISPERSION)
    size = log_dispersion.exp()
    log_total = torch.logaddexp(log_mean, log_dispersion)
    constant = torch.lgamma(counts + size) - torch.lgamma(size)
    terms = constant + size * (log_dispersion - log_total) + counts * (log_mean - log_total)
    return -terms.mean()


def standardized_mse(signal: Tensor, expression: Tensor) -> Tensor:
    """Mean squared error of standardised expression, in which every gene counts the same."""
    return F.mse_loss(signal.float(), expression)
