"""Synthetic sections whose morphology drives the expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nh2st._keys import DONOR
from nh2st._phantom import CELL_TYPES, TUMOR, draw_stain, grow_tissue, stain_tissue
from nh2st.datasets._assemble import SpotSection, to_spatialdata
from nh2st.datasets._programmes import activities, count, expected_fractions, gene_panel

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from spatialdata import SpatialData

    from nh2st._phantom import Tissue

PITCH_UM: Final = 100
SPOT_RADIUS_UM: Final = 50.0
FULL_SPOT: Final = {"tumor": 45.0, "gland": 25.0, "fibroblast": 14.0, "t_cell": 50.0, "plasma_cell": 30.0}
"""Cells in a spot that is filled by one type."""
DEPTH: Final = 2500.0
DROPOUT: Final = 0.3
BATCH_SD: Final = 0.15


def synthetic(
    n_sections: int = 4,
    *,
    n_donors: int | None = None,
    spots_per_side: int = 12,
    n_genes: int = 80,
    seed: int = 0,
) -> SpatialData:
    """H&E-like sections of tumour tissue with spots whose counts follow from the cells under them.

    Smooth random fields divide a section into tumour nests, stroma with glands, and fat, and let T cells and plasma
    cells in; nuclei differ in size, shape and chromatin. Both stains are applied as optical densities (Beer-Lambert)
    with a hue and a strength of their own for each donor. Each programme of genes follows the cells within 50 um of a
    spot's centre: markers of a type its number of cells, others the size, the shape or the nucleoli of tumour nuclei
    (of which the mean colour says little), the density of collagen, or two types being together. Counts are negative
    binomial with a library size per spot, dropout, and a factor per donor and gene. The same arguments give the same
    data; genes behave the same whatever the seed, so that sections of another seed can be predicted.

    Parameters
    ----------
    n_sections
        Number of sections, named ``S1``, ``S2`` and so on.
    n_donors
        Number of donors, named ``D1``, ``D2`` and so on, over which the sections are dealt in turn. By default each
        section has its own.
    spots_per_side
        Spots along each side of the square array; they are 100 um apart. The image has one pixel per um.
    n_genes
        Number of genes: up to 80 are taken from all programmes in turn, further ones are noise.
    seed
        Seed of everything that is random.

    Returns
    -------
    Laid out like :func:`her2st`, one region per section. In addition ``obs`` has ``n_nuclei``, the fractions of the
    nuclei of each type (``fraction_tumor``, ``fraction_gland``, ``fraction_fibroblast``, ``fraction_t_cell``,
    ``fraction_plasma_cell``) and the fraction of the spot's area that is fat (``fraction_adipose``), and
    ``var["programme"]`` says what drives each gene.

    Raises
    ------
    ValueError
        A number is below 1, or there are more donors than sections.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(2, spots_per_side=4)
    >>> sdata["table"].shape
    (32, 80)
    """
    n_donors = n_sections if n_donors is None else n_donors
    _check_numbers(n_sections=n_sections, n_donors=n_donors, spots_per_side=spots_per_side, n_genes=n_genes)
    if n_donors > n_sections:
        msg = f"n_donors={n_donors} is more than n_sections={n_sections}: each donor needs a section."
        raise ValueError(msg)
    panel = gene_panel(n_genes)
    sections = [_section(index, index % n_donors, spots_per_side, panel, seed) for index in range(n_sections)]
    sdata = to_spatialdata(sections)
    sdata["table"].var["programme"] = panel["programme"].astype("category").reindex(sdata["table"].var_names)
    return sdata


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            msg = f"{name} must be at least 1, not {number}."
            raise ValueError(msg)


def _section(index: int, donor: int, side: int, panel: pd.DataFrame, seed: int) -> SpotSection:
    import numpy as np
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng([seed, 0, index])
    donor_rng = np.random.default_rng([seed, 1, donor])
    stain = draw_stain(donor_rng)
    batch = donor_rng.lognormal(0, BATCH_SD, len(panel))
    tissue = grow_tissue(rng, PITCH_UM * (side + 1))
    array = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    contents, obs = _spots(tissue, side)
    fractions = expected_fractions(activities(contents), panel, batch)
    counts = count(rng, fractions, panel, depth=DEPTH, dropout=DROPOUT)
    return SpotSection(
        name=f"S{index + 1}",
        image=stain_tissue(rng, tissue, stain),
        mpp=1.0,
        xy=PITCH_UM * (array + 1.0),
        array=array,
        radius_um=SPOT_RADIUS_UM,
        counts=csr_matrix(counts),
        genes=panel.index,
        obs=obs.assign(**{DONOR: f"D{donor + 1}"}),
    )


def _spots(tissue: Tissue, side: int) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Collect what drives the programmes in each spot, and what of it is reported."""
    import numpy as np
    import pandas as pd

    nuclei = tissue.nuclei
    spot, inside = _spot_of(nuclei.xy, side)
    numbers = np.zeros((side * side, len(CELL_TYPES)))
    np.add.at(numbers, (spot[inside], nuclei.type[inside]), 1)
    adipose, stroma = (_covered(mask, side) for mask in (tissue.adipose, _stroma(tissue)))
    contents = {kind: numbers[:, i] / FULL_SPOT[kind] for i, kind in enumerate(CELL_TYPES)}
    contents |= {"adipose": adipose, "stroma": stroma}
    contents["matrix"] = _covered(_stroma(tissue) * tissue.matrix, side) / np.maximum(stroma, 1e-9)
    tumor = inside & (nuclei.type == TUMOR)
    for trait in ("grade", "clone", "nucleolus"):
        total = np.bincount(spot[tumor], getattr(nuclei, trait)[tumor], minlength=side * side)
        contents[trait] = total / np.maximum(numbers[:, TUMOR], 1)
    total = numbers.sum(axis=1)
    obs = {f"fraction_{kind}": numbers[:, i] / np.maximum(total, 1) for i, kind in enumerate(CELL_TYPES)}
    return contents, pd.DataFrame({"n_nuclei": total.astype(int), **obs, "fraction_adipose": adipose})


def _spot_of(xy: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Row number of the spot nearest to each point, and whether the point lies within it."""
    import numpy as np

    nearest = np.clip(np.rint(xy / PITCH_UM).astype(int), 1, side)
    inside = np.hypot(*(xy - nearest * PITCH_UM).T) <= SPOT_RADIUS_UM
    return (nearest[:, 1] - 1) * side + nearest[:, 0] - 1, inside


def _stroma(tissue: Tissue) -> np.ndarray:
    return ~tissue.tumor & ~tissue.adipose & (tissue.gland_depth > 1)


def _covered(field: np.ndarray, side: int) -> np.ndarray:
    """Mean of a field over the disc of each spot."""
    import numpy as np

    margin = PITCH_UM // 2
    offset = np.arange(PITCH_UM) + 0.5 - margin
    disc = np.hypot(offset[:, None], offset) <= SPOT_RADIUS_UM
    tiles = field[margin:-margin, margin:-margin].reshape(side, PITCH_UM, side, PITCH_UM)
    return np.einsum("iajb,ab->ij", tiles.astype(float), disc).ravel() / disc.sum()
