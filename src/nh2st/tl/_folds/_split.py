"""Which spots are tested in which fold: whole groups, or with a single group blocks of its tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from sklearn.model_selection import GroupKFold

from nh2st._settings import logger

_BLOCKS = 5
_LEAST_FOLDS = 2
_LEAST_SPOTS = 3


@dataclass(frozen=True)
class FoldLayout:
    """Where all spots of all sections are, and what they belong to.

    `pixels` (n, 2) are centres in pixels of the section's image; `section` (n,) numbers; `group` (n,) names; `margin`
    (n_sections,) is the distance in pixels, along x or y, that training keeps from test spots.
    """

    pixels: np.ndarray
    section: np.ndarray
    group: np.ndarray
    margin: np.ndarray


@dataclass(frozen=True)
class Fold:
    """Spots (n,) to train on and spots (n,) to predict, both boolean; spots in the margin between them are neither."""

    name: str
    training: np.ndarray
    test: np.ndarray


def folds_of(layout: FoldLayout, n_folds: int | None, within: np.ndarray | None = None) -> list[Fold]:
    """Folds that never divide a group; with a single group, folds of spatial blocks.

    Parameters
    ----------
    layout
        All spots.
    n_folds
        How many folds, groups being joined so that their spots are balanced; each group by itself where absent (five
        spatial blocks with a single group).
    within
        Boolean (n,): which spots are divided; all where absent.

    Returns
    -------
    Every spot that is divided is tested in exactly one fold.

    Raises
    ------
    ValueError
        If there are more folds than groups, fewer than two, or a fold leaves too few spots to train on or to test.
    """
    rows = np.flatnonzero(np.ones(len(layout.group), dtype=bool) if within is None else within)
    groups = sorted(set(layout.group[rows]))
    if n_folds is not None:
        _check_number(n_folds, groups)
    if len(groups) == 1:
        number = _block_numbers(layout, rows, n_folds or _BLOCKS)
        names = [f"block {block + 1} of {number.max() + 1}" for block in range(number.max() + 1)]
    else:
        number = _group_numbers(layout.group[rows], groups, n_folds)
        names = [", ".join(sorted(set(layout.group[rows[number == fold]]))) for fold in range(number.max() + 1)]
    folds = [_fold(layout, name, rows, number == fold) for fold, name in enumerate(names)]
    for fold in folds:
        _check_size(layout, fold, len(rows), single=len(groups) == 1)
    return folds


def warn_of_blocks(layout: FoldLayout) -> None:
    """Say that a single group gives optimistic scores."""
    if len(set(layout.group)) == 1:
        logger.warning(
            "All spots are of one group (%s): folds are spatial blocks of its tissue, with a margin between training "
            "and test spots. Such a score is optimistic; only other donors tell how well a model does on new ones.",
            layout.group[0],
        )


def _check_number(n_folds: int, groups: list[str]) -> None:
    if n_folds < _LEAST_FOLDS:
        msg = f"n_folds must be at least {_LEAST_FOLDS}, not {n_folds}."
        raise ValueError(msg)
    if 1 < len(groups) < n_folds:
        msg = (
            f"n_folds={n_folds}, but there are {len(groups)} groups ({', '.join(groups[:5])}"
            f"{', ...' if len(groups) > 5 else ''}), which folds do not divide. Ask for at most {len(groups)}, or "
            "leave `n_folds=` out."
        )
        raise ValueError(msg)


def _group_numbers(labels: np.ndarray, groups: list[str], n_folds: int | None) -> np.ndarray:
    """Fold of each spot: the largest groups first, each into the fold that is smallest so far."""
    number = np.searchsorted(np.array(groups), labels.astype(str))
    if n_folds is None:
        return number
    for fold, (_, test) in enumerate(GroupKFold(n_folds).split(labels, groups=number.copy())):
        number[test] = fold
    return number


def _block_numbers(layout: FoldLayout, rows: np.ndarray, n_blocks: int) -> np.ndarray:
    """Fold of each spot: every section by itself is cut into compact blocks with as many spots each."""
    number = np.empty(len(rows), dtype=np.int64)
    for section in np.unique(layout.section[rows]):
        mine = np.flatnonzero(layout.section[rows] == section)
        number[mine] = _cut(layout.pixels[rows[mine]], n_blocks)
    return np.unique(number, return_inverse=True)[1]


def _cut(xy: np.ndarray, n_blocks: int) -> np.ndarray:
    """Block of each point: cut across the longer side in proportion, and so on in both parts."""
    number = np.zeros(len(xy), dtype=np.int64)
    if n_blocks == 1 or len(xy) == 0:
        return number
    first = n_blocks // 2
    axis = int(np.ptp(xy, axis=0).argmax())
    order = np.lexsort([xy[:, 1 - axis], xy[:, axis]])
    low, high = np.split(order, [round(len(xy) * first / n_blocks)])
    number[low] = _cut(xy[low], first)
    number[high] = first + _cut(xy[high], n_blocks - first)
    return number


def _fold(layout: FoldLayout, name: str, rows: np.ndarray, tested: np.ndarray) -> Fold:
    test = np.zeros(len(layout.group), dtype=bool)
    test[rows[tested]] = True
    training = np.zeros_like(test)
    training[rows[~tested]] = True
    for section in np.unique(layout.section[test]):
        mine = np.flatnonzero(training & (layout.section == section))
        if not len(mine):
            continue
        places = layout.pixels[test & (layout.section == section)]
        # Along x and y, as patches are squares: those at this distance share no pixel.
        distance, _ = cKDTree(places).query(layout.pixels[mine], p=np.inf)
        training[mine[distance < layout.margin[section] * (1 - 1e-9)]] = False
    return Fold(name, training, test)


def _check_size(layout: FoldLayout, fold: Fold, n_spots: int, *, single: bool) -> None:
    n_test, n_training = int(fold.test.sum()), int(fold.training.sum())
    n_margin = n_spots - n_test - n_training
    of_sections = np.bincount(layout.section[fold.test])
    if of_sections.max(initial=0) >= _LEAST_SPOTS and n_training >= _LEAST_SPOTS:
        return
    way_out = "fewer folds (`n_folds=`), a smaller `patch_um=`" if single else "fewer folds (`n_folds=`)"
    msg = (
        f"The fold that tests {fold.name} has {n_test} spots to test and {n_training} to train on, of {n_spots}; each "
        f"needs {_LEAST_SPOTS}, those to test in one section. {n_margin} lie in the margin between "
        f"them. Ask for {way_out}, or give more sections."
    )
    raise ValueError(msg)
