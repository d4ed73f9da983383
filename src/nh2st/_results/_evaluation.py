"""Scores of whole sections in a table's record of predictions: how they are written, and how they are read again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._results._predictions import provenance_of
from nh2st._sections import Spots

EVALUATION = "evaluation"
EVALUATION_BY_SECTION = "evaluation_by_section"
_LABELS = ["section", "model", "truth"]


def write_evaluation(table: AnnData, key: str, by_section: pd.DataFrame, sections: Sequence[Spots]) -> None:
    """Write scores of the table's sections, and their means over sections for each model and truth.

    The frame has the columns ``section``, ``model``, ``truth``, and one for each metric.
    """
    record = provenance_of(table, key)
    means = by_section.drop(columns="section").groupby(["model", "truth"], sort=False).mean()
    record[EVALUATION] = {
        f"{model}_{truth}".replace(" ", "_"): row.to_dict() for (model, truth), row in means.iterrows()
    }
    tidy = by_section.melt(_LABELS, var_name="metric")
    tidy["section"] = tidy["section"].map({one.name: _label(one) for one in sections})
    # As rows, since neither the order of keys nor every character of a section's name would survive on disk.
    record[EVALUATION_BY_SECTION] = {str(name): np.asarray(values) for name, values in tidy.items()}


def read_evaluation(table: AnnData, key: str, sections: Sequence[Spots]) -> pd.DataFrame:
    """Tidy scores of those of the table's sections that were evaluated.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.
    """
    record = provenance_of(table, key)
    if EVALUATION_BY_SECTION not in record:
        msg = f"The predictions {key!r} have not been evaluated. Call `nh.tl.evaluate(sdata, {key!r})` first."
        raise KeyError(msg)
    stored = record[EVALUATION_BY_SECTION]
    tidy = pd.DataFrame({name: np.asarray(stored[name]) for name in [*_LABELS, "metric", "value"]})
    tidy["section"] = tidy["section"].map({_label(one): one.name for one in sections})
    return tidy.dropna(subset="section")


def _label(section: Spots) -> str:
    """Name of a section within its table, which does not know the name of the object that it is in."""
    return section.region or "section"
