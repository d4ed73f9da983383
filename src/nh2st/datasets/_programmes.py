"""Gene programmes of the synthetic tissue: what the cells of a spot express, and how it is counted."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

# genes behave the same whatever the seed, so that a model trained on one call's sections fits another call's
GENE_SEED: Final = 20160701


def gene_panel(n_genes: int) -> pd.DataFrame:
    """Choose genes from all programmes in turn, then fill up with further noise genes.

    Columns: ``programme``; ``abundance``, the expression where the programme is fully active; ``leak``, the fraction of
    it where the programme is silent; ``power``, how steeply it rises between; ``dispersion`` of the negative binomial.
    """
    import numpy as np
    import pandas as pd
    from scipy.special import ndtri

    named = _named_genes()
    further = [(f"NOISE{i + 1}", "noise") for i in range(n_genes - len(named))]
    names, programmes = zip(*(named + further)[:n_genes], strict=True)
    # a row per gene, so that a gene does not depend on how many come after it
    abundance, leak, power, dispersion = np.random.default_rng(GENE_SEED).random((n_genes, 4)).T
    panel = pd.DataFrame(
        {
            "programme": programmes,
            "abundance": np.exp(0.5 * ndtri(abundance)),
            "leak": 0.03 + 0.09 * leak,
            "power": 0.8 + 0.7 * power,
            "dispersion": 0.08 + 0.17 * dispersion,
        },
        index=pd.Index(names),
    )
    panel.loc[panel["programme"] == "noise", "abundance"] *= 0.25
    return panel


def _named_genes() -> list[tuple[str, str]]:
    """Genes with their programmes: the first of each programme, then the second of each, and so on."""
    programmes = tomllib.loads((resources.files("nh2st.datasets") / "programmes.toml").read_text(encoding="utf-8"))
    turns = range(max(map(len, programmes.values())))
    return [(genes[turn], programme) for turn in turns for programme, genes in programmes.items() if turn < len(genes)]


def activities(spots: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Say how active each programme is in each spot, about 0..1.

    `spots` has for each spot the number of cells of each type relative to a full spot (``tumor``, ...), the covered
    fractions ``adipose`` and ``stroma``, the mean ``matrix`` density of its stroma, and the mean ``grade``, ``clone``
    and ``nucleolus`` of its tumour nuclei.
    """
    import numpy as np

    tumor, t_cell, fibroblast = spots["tumor"], spots["t_cell"], spots["fibroblast"]
    glandular = tumor + 0.8 * spots["gland"]
    return {
        "housekeeping": np.ones_like(tumor),
        "epithelium": glandular / (glandular + 0.35) * 1.35,
        "tumor": tumor,
        "gland": spots["gland"],
        "fibroblast": fibroblast,
        "t_cell": t_cell,
        "plasma_cell": spots["plasma_cell"],
        "adipose": spots["adipose"],
        "proliferation": tumor * _switch(spots["grade"]),
        "amplicon": tumor * _switch(spots["clone"]),
        "nucleolus": tumor * _switch(spots["nucleolus"]),
        "matrix": spots["stroma"] * _switch(spots["matrix"]),
        "checkpoint": np.clip(6 * tumor * t_cell, 0, 1.5),
        "front": np.clip(4 * tumor * spots["stroma"], 0, 1.5),
        "noise": np.ones_like(tumor),
    }


def _switch(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return 1 / (1 + np.exp(-(x - 0.5) / 0.09))


def expected_fractions(active: Mapping[str, np.ndarray], panel: pd.DataFrame, batch: np.ndarray) -> np.ndarray:
    """Give each gene's expected share of the counts of each spot (n, genes); `batch` multiplies a donor's genes."""
    import numpy as np

    activity = np.column_stack([active[programme] for programme in panel["programme"]])
    leak, power = panel["leak"].to_numpy(), panel["power"].to_numpy()
    rate = panel["abundance"].to_numpy() * batch * (leak + (1 - leak) * activity**power)
    return rate / rate.sum(axis=1, keepdims=True)


def count(
    rng: np.random.Generator, fractions: np.ndarray, panel: pd.DataFrame, *, depth: float, dropout: float
) -> np.ndarray:
    """Draw negative binomial counts (n, genes) with a log-normal library size; low ones are lost more often."""
    import numpy as np

    library = depth * rng.lognormal(0, 0.35, (len(fractions), 1))
    dispersion = panel["dispersion"].to_numpy()
    rate = rng.gamma(1 / dispersion, dispersion * fractions * library)
    return rng.poisson(rate) * (rng.random(fractions.shape) >= dropout * np.exp(-fractions * library / 10))
