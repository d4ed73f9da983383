"""Folds divide no group, cover every spot once, and keep training away from test spots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.spatial.distance import cdist

from nh2st.tl._folds._split import Fold, FoldLayout, folds_of, warn_of_blocks

PITCH = 10.0


def grid(side: int) -> np.ndarray:
    return PITCH * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)


def layout(sides: Sequence[int], groups: Sequence[str], margin: float = 0.0) -> FoldLayout:
    """Square sections, each of one group."""
    sizes = [side * side for side in sides]
    return FoldLayout(
        pixels=np.concatenate([grid(side) for side in sides]),
        section=np.repeat(np.arange(len(sides)), sizes),
        group=np.repeat(np.array(groups, dtype=object), sizes),
        margin=np.full(len(sides), margin),
    )


def check_partition(folds: Sequence[Fold], n_spots: int) -> None:
    np.testing.assert_array_equal(np.sum([fold.test for fold in folds], axis=0), np.ones(n_spots))
    assert not any((fold.test & fold.training).any() for fold in folds)


def test_each_group_is_a_fold():
    spots = layout([3, 4, 2, 3], ["q", "p", "r", "q"], margin=99)
    folds = folds_of(spots, None)
    check_partition(folds, len(spots.group))
    assert [fold.name for fold in folds] == ["p", "q", "r"]
    for fold in folds:
        np.testing.assert_array_equal(fold.test, spots.group == fold.name)
        np.testing.assert_array_equal(fold.training, ~fold.test)


def test_folds_are_balanced_by_spots():
    spots = layout([10, 8, 7, 5, 4, 3], list("abcdef"))
    folds = folds_of(spots, 3)
    check_partition(folds, len(spots.group))
    # 263 spots in squares of 100, 64, 49, 25, 16 and 9: each next one goes to the smallest fold.
    assert sorted(int(fold.test.sum()) for fold in folds) == [80, 83, 100]
    for group in "abcdef":
        assert sum((fold.test & (spots.group == group)).any() for fold in folds) == 1


@pytest.mark.parametrize(("n_folds", "n_blocks"), [(None, 5), (2, 2), (6, 6)])
def test_blocks_of_a_single_group(n_folds, n_blocks):
    spots = layout([12, 11], ["p", "p"], margin=15.0)
    folds = folds_of(spots, n_folds)
    check_partition(folds, len(spots.group))
    assert len(folds) == n_blocks
    for fold in folds:
        for section, side in enumerate((12, 11)):
            mine = spots.section == section
            test, training = fold.test[mine], fold.training[mine]
            assert abs(test.sum() - side * side / n_blocks) <= n_blocks
            assert label(test.reshape(side, side))[1] == 1, "a block is in one piece"
            extent = np.ptp(grid(side)[test], axis=0) / PITCH + 1
            assert extent.max() / extent.min() < 3, "a block is compact"
            distance = cdist(grid(side), grid(side)[test], "chebyshev").min(axis=1)
            np.testing.assert_array_equal(training, distance >= 15)


def test_groups_side_by_side_in_a_section_keep_apart():
    spots = layout([10], ["p"], margin=25.0)
    spots.group[spots.pixels[:, 0] > 40] = "q"
    first, second = folds_of(spots, None)
    check_partition([first, second], 100)
    assert spots.pixels[first.test, 0].max() == 40
    assert spots.pixels[first.training, 0].min() == 70
    assert spots.pixels[second.training, 0].max() == 20


def test_some_of_the_spots_are_divided():
    spots = layout([4, 4, 4], ["p", "q", "r"])
    folds = folds_of(spots, None, within=spots.group != "q")
    assert [fold.name for fold in folds] == ["p", "r"]
    assert not any((fold.test | fold.training)[spots.group == "q"].any() for fold in folds)


@pytest.mark.parametrize(
    ("n_folds", "message"),
    [
        (1, "n_folds must be at least 2, not 1"),
        (4, "n_folds=4, but there are 3 groups .p, q, r., which folds do not divide. Ask for at most 3"),
    ],
)
def test_impossible_numbers(n_folds, message):
    with pytest.raises(ValueError, match=message):
        folds_of(layout([3, 3, 3], ["p", "q", "r"]), n_folds)


def test_margin_that_leaves_nothing_to_train_on():
    with pytest.raises(
        ValueError, match="block 1 of 5 has 5 spots to test and 0 to train on, of 25.*smaller `patch_um"
    ):
        folds_of(layout([5], ["p"], margin=60.0), None)


def test_single_group_is_said_to_be_optimistic(caplog):
    warn_of_blocks(layout([5], ["p"]))
    assert "All spots are of one group (p)" in caplog.text
    assert "optimistic" in caplog.text
    caplog.clear()
    warn_of_blocks(layout([5, 5], ["p", "q"]))
    assert not caplog.text
