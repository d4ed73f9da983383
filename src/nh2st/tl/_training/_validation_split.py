"""Donor groups, and the validation split for early stopping, which never divides a group where there are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nh2st._keys import DONOR
from nh2st._sections import Spots
from nh2st._settings import logger

_FRACTION = 0.2
_GROUPS_FOR_HOLD_OUT = 3
_LEAST_SPOTS = 2
_LEAST_VALIDATION_SPOTS = 3


@dataclass(frozen=True)
class Split:
    """Which spots validate (boolean, over all sections in order), and how they were chosen."""

    validation: np.ndarray
    description: str


def groups_of(sections: Sequence[Spots], groups: str | Mapping[str, str] | None) -> list[np.ndarray]:
    """Group (donor) of each spot, one array a section.

    Raises
    ------
    KeyError
        If the column or a section is missing from `groups`.
    ValueError
        If a spot has no group.
    """
    if isinstance(groups, Mapping):
        return [np.full(len(section.rows), _group_of(section, groups), dtype=object) for section in sections]
    column = groups if groups is not None else DONOR
    if all(column in section.adata.obs for section in sections):
        return [_labels(section, column) for section in sections]
    if groups is not None:
        missing = ", ".join(repr(section.name) for section in sections if column not in section.adata.obs)
        msg = (
            f"groups={groups!r} names no column of obs for section {missing}. Name a column, or map sections to donors."
        )
        raise KeyError(msg)
    if len(sections) > 1:
        logger.warning(
            "No donors are known (no obs[%r]): every section counts as a donor of its own. If sections share a donor, "
            "say so with `groups=`, or validation will look better than it is.",
            DONOR,
        )
    return [np.full(len(section.rows), section.name, dtype=object) for section in sections]


def _group_of(section: Spots, groups: Mapping[str, str]) -> str:
    for name in (section.name, section.region):
        if name in groups:
            return str(groups[name])
    msg = f"groups= has no entry for section {section.name!r}; it has: {', '.join(map(repr, groups))}."
    raise KeyError(msg)


def _labels(section: Spots, column: str) -> np.ndarray:
    labels = section.adata.obs[column].iloc[section.rows]
    if labels.isna().any():
        msg = (
            f"obs[{column!r}] is empty for {labels.isna().sum()} spots of section {section.name!r}: give them a group."
        )
        raise ValueError(msg)
    return labels.astype(str).to_numpy(dtype=object)


def validation_split(sections: Sequence[Spots], groups: Sequence[np.ndarray], seed: int) -> Split:
    """Hold out whole groups where there are three or more, else a block at one side of every section.

    Raises
    ------
    ValueError
        If there is a single spot.
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate(groups)
    if len(labels) < _LEAST_SPOTS:
        msg = f"There is {len(labels)} spot in the sections; training needs more. Check the column of `spots=`."
        raise ValueError(msg)
    names = sorted(set(labels))
    if len(names) >= _GROUPS_FOR_HOLD_OUT:
        held_out = rng.permutation(names)[: max(1, round(_FRACTION * len(names)))]
        return Split(np.isin(labels, held_out), f"donors held out: {', '.join(sorted(held_out))}")
    logger.warning(
        "Only %d donor group%s: validation looks at spatial blocks inside the training sections. Its score is no "
        "measure of performance on new sections.",
        len(names),
        "" if len(names) == 1 else "s",
    )
    blocks = np.concatenate([_side_block(section.xy, rng) for section in sections])
    if blocks.sum() < _LEAST_VALIDATION_SPOTS:
        logger.warning("Too few spots (%d) to validate: training runs for all epochs.", len(labels))
        return Split(np.zeros(len(labels), dtype=bool), "none: too few spots")
    return Split(blocks, "spatial blocks inside the training sections")


def _side_block(xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The fifth of the spots that lies farthest in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    along = xy @ np.array([np.cos(angle), np.sin(angle)])
    block = np.zeros(len(xy), dtype=bool)
    block[np.argsort(along, kind="stable")[len(xy) - int(_FRACTION * len(xy)) :]] = True
    return block
