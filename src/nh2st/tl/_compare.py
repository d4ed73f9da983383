"""Whether one model is better than another: paired over genes and sections."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from nh2st._arguments import at_least_one
from nh2st._settings import logger

_COLUMNS = ("section", "gene", "model", "truth", "metric", "value")
_REPETITIONS = ("fold", "seed")
_ERRORS = ("mse", "mae", "nrmse")
_INTERVAL = (2.5, 97.5)
_ALL = "all"
_SAMPLES_AT_ONCE = 256


def compare(
    scores: pd.DataFrame,
    model: str = "model",
    baseline: str = "ridge",
    *,
    metric: str = "pearson",
    truth: str = "raw",
    n_bootstrap: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two models gene by gene within each section.

    Parameters
    ----------
    scores
        What :func:`nh2st.tl.cross_validate` or :func:`nh2st.tl.evaluate` returned. Tables of several seeds may be
        joined, with the seed in a column ``seed``: scores of a gene are averaged over seeds first (and over folds,
        where folds divide a section).
    model, baseline
        Models to compare, as named in ``scores["model"]``.
    metric
        Metric that each gene has.
    truth
        ``"raw"`` or ``"smoothed"``.
    n_bootstrap
        Number of bootstrap samples for the interval.
    seed
        Seed of the samples.

    Returns
    -------
    A row for each section, and at the end one named ``"all"``, with the columns

    - ``model``, ``baseline``: means over the genes for which both are defined,
    - ``difference``: mean over genes of the paired difference; for ``"all"``, the mean of this over sections,
    - ``low``, ``high``: 95 % percentile interval of the difference. In each sample sections are drawn with replacement,
      and genes within each section drawn; for a single section, genes alone. Genes are not independent, so that the
      interval of a single section is too narrow to speak of others,
    - ``improved``: share of the genes for which the model is better (has a higher value; for errors a lower one),
    - ``p_value``: two-sided Wilcoxon signed-rank test over the genes of a section; for ``"all"``, over the genes' mean
      differences,
    - ``n_genes``: pairs of gene and section compared (for ``"all"``, distinct genes), ``n_undefined``: pairs left out
      because the metric is not defined for both (for ``"all"``, their sum), ``n_sections``.

    Raises
    ------
    KeyError
        If columns are missing, or there is no such model, metric or truth.
    ValueError
        If no gene can be compared, or the same score is given twice.

    References
    ----------
    Wilcoxon 1945, Biometrics Bulletin 1; Davison and Hinkley 1997, Bootstrap Methods, ch. 3.8 (samples at two levels).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import nh2st as nh
    >>> labels = {"section": "A", "gene": ["g0", "g1"], "truth": "raw", "metric": "pearson"}
    >>> scores = pd.concat(
    ...     [
    ...         pd.DataFrame(labels | {"model": "model", "value": [0.5, 0.3]}),
    ...         pd.DataFrame(labels | {"model": "ridge", "value": [0.4, 0.1]}),
    ...     ]
    ... )
    >>> float(nh.tl.compare(scores).loc["all", "difference"].round(2))
    0.15
    """
    at_least_one("n_bootstrap", n_bootstrap)
    pairs = _pairs(scores, model, baseline, metric, truth)
    defined = pairs.dropna()
    if defined.empty:
        msg = f"No gene has a defined {metric!r} of both {model!r} and {baseline!r}; there is nothing to compare."
        raise ValueError(msg)
    undefined = pairs.isna().any(axis=1)
    if undefined.any():
        logger.info("%d of %d pairs of gene and section are not defined for both.", undefined.sum(), len(pairs))
    rng, sign = np.random.default_rng(seed), -1 if metric in _ERRORS else 1
    parts = {str(name): part for name, part in defined.groupby(level="section", sort=False)}
    rows = {name: _row([part], sign, n_bootstrap, rng) for name, part in parts.items()}
    rows[_ALL] = _row(list(parts.values()), sign, n_bootstrap, rng)
    missing = undefined.groupby(level="section").sum().rename(index=str)
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("section")
    frame["n_undefined"] = [int(undefined.sum() if name == _ALL else missing[name]) for name in frame.index]
    return frame


def _pairs(scores: pd.DataFrame, model: str, baseline: str, metric: str, truth: str) -> pd.DataFrame:
    """Values of both models, columns ``model`` and ``baseline``; a row for each section and gene."""
    if lacking := [name for name in _COLUMNS if name not in scores]:
        msg = (
            f"scores lacks the columns {', '.join(map(repr, lacking))}: give what `nh.tl.cross_validate` or "
            "`nh.tl.evaluate` returned."
        )
        raise KeyError(msg)
    # Empty for a section as a whole, and missing where the scores were read from a CSV file.
    chosen = scores[scores["gene"].fillna("") != ""]
    for name, value in (("metric", metric), ("truth", truth), ("model", model), ("model", baseline)):
        if value not in set(chosen[name]):
            there = ", ".join(map(repr, chosen[name].unique()))
            msg = f"There is no {name} {value!r} that scores each gene; there are: {there or 'none'}."
            raise KeyError(msg)
    chosen = chosen[(chosen["metric"] == metric) & (chosen["truth"] == truth)]
    keys = ["section", "gene", "model"]
    if chosen.duplicated([*keys, *(name for name in _REPETITIONS if name in chosen)]).any():
        msg = "Scores of a gene are given twice. Tell repeated runs apart by a column `seed` before they are joined."
        raise ValueError(msg)
    repetitions = [name for name in _REPETITIONS if name in chosen]
    wide = chosen.set_index(["section", "gene", *repetitions, "model"])["value"].unstack("model")
    both = wide[[model, baseline]].set_axis(["model", "baseline"], axis=1)
    if not both.notna().all(axis=1).any():
        # Runs that share no seed, such as those of a baseline that was fitted once.
        return both.groupby(level=["section", "gene"], sort=False).mean()
    both[both.isna().any(axis=1)] = np.nan
    return both.groupby(level=["section", "gene"], sort=False).mean()


def _row(parts: list[pd.DataFrame], sign: int, n_bootstrap: int, rng: np.random.Generator) -> dict[str, float]:
    """One row of the comparison, over the pairs of one or several sections."""
    joined = pd.concat(parts)
    differences = [(part["model"] - part["baseline"]).to_numpy() for part in parts]
    of_genes = (joined["model"] - joined["baseline"]).groupby(level="gene").mean().to_numpy()
    low, high = np.percentile(_resampled(differences, n_bootstrap, rng), _INTERVAL)
    return {
        "model": float(np.mean([part["model"].mean() for part in parts])),
        "baseline": float(np.mean([part["baseline"].mean() for part in parts])),
        "difference": float(np.mean([part.mean() for part in differences])),
        "low": float(low),
        "high": float(high),
        "improved": float((sign * np.concatenate(differences) > 0).mean()),
        "p_value": float(wilcoxon(of_genes).pvalue) if of_genes.any() else 1.0,
        "n_sections": len(parts),
        "n_genes": len(of_genes),
    }


def _resampled(differences: list[np.ndarray], n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Mean difference of each bootstrap sample: sections drawn with replacement, then genes within each one drawn."""
    drawn = rng.integers(len(differences), size=(n_bootstrap, len(differences)))
    means = np.empty(drawn.shape)
    for number, values in enumerate(differences):
        mine = drawn == number
        chunks = np.array_split(np.arange(mine.sum()), -(-int(mine.sum()) // _SAMPLES_AT_ONCE) or 1)
        sampled = [values[rng.integers(len(values), size=(len(chunk), len(values)))].mean(axis=1) for chunk in chunks]
        means[mine] = np.concatenate(sampled)
    return means.mean(axis=1)
