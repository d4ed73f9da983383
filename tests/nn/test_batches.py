from __future__ import annotations

import numpy as np
import pytest
import torch

import nh2st.nn as nn_


def _grid(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


def test_collate_gathers_the_right_patches(section):
    section["images"] = np.arange(25, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    targets = np.array([24, 0, 12])
    batch = nn_.collate(targets, **section)
    assert len(batch.images) == len(np.unique(batch.images[:, 0, 0, 0])) == 15
    spots = batch.images[batch.nodes, 0, 0, 0].numpy().astype(int)
    np.testing.assert_array_equal(spots[:, 0], targets)
    np.testing.assert_array_equal(np.where(batch.mask, spots, -1)[:, 1:], section["neighbors"][targets])
    np.testing.assert_array_equal(batch.expression[batch.nodes[:, 0]], section["expression"][targets])


def test_collate_takes_tensors(section):
    tensors = section | {key: torch.from_numpy(section[key]) for key in ("images", "expression")}
    batch, expected = nn_.collate(np.arange(4), **tensors), nn_.collate(np.arange(4), **section)
    assert torch.equal(batch.images, expected.images)
    assert torch.equal(batch.to("cpu").expression, expected.expression)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 8), (2, 1), (3, 2), (65, 64), (129, 64), (400, 32), (7, 100)])
def test_every_spot_is_in_one_batch(n, batch_size):
    rng = np.random.default_rng(n)
    batches = nn_.spatial_batches(rng.random((n, 2)), rng.integers(0, 3, n), batch_size, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size + 1
    assert min(sizes) > 1 or n == 1 or batch_size == 1


def test_batches_share_neighbors_and_mix_places():
    side, k = 40, 8
    xy = np.concatenate([_grid(side), _grid(side) * 300 + 7])
    sections = np.repeat(["a", "b"], side**2)
    near = [np.flatnonzero(np.abs(_grid(side) - p).max(1) <= 1) for p in _grid(side)]

    def patches_per_spot(batches: list[np.ndarray]) -> float:
        needed = [len({j + i // side**2 * side**2 for i in b for j in near[i % side**2]}) for b in batches]
        return sum(needed) / len(xy)

    batches = nn_.spatial_batches(xy, sections, 64, seed=3)
    shuffled = np.array_split(np.random.default_rng(0).permutation(len(xy)), len(batches))
    assert patches_per_spot(batches) < 2.6 < 0.5 * patches_per_spot(shuffled) < (k + 1) / 2
    spread = [np.ptp(xy[b][sections[b] == "a"], axis=0).max() for b in batches if (sections[b] == "a").sum() > 20]
    assert np.median(spread) > side / 3
    assert np.mean([len(np.unique(sections[b])) for b in batches]) > 1.7


@pytest.mark.parametrize("xy", [np.zeros((50, 2)), np.stack([np.arange(50.0), np.zeros(50)], 1)])
def test_degenerate_sections(xy):
    batches = nn_.spatial_batches(xy, np.zeros(50), 16, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(50))


def test_seed_fixes_the_epoch():
    arguments = _grid(20), np.zeros(400), 32
    first, again, other = (nn_.spatial_batches(*arguments, seed=seed) for seed in ((1, 0), (1, 0), (1, 1)))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_batches_refuse_what_cannot_be_cut():
    with pytest.raises(ValueError, match="1 of 3 spots"):
        nn_.spatial_batches(np.array([[0, 0], [np.nan, 1], [1, 1]]), np.zeros(3), 2, seed=0)
    with pytest.raises(ValueError, match="batch_size"):
        nn_.spatial_batches(np.zeros((3, 2)), np.zeros(3), 0, seed=0)


def test_dihedral_gives_each_of_the_eight_elements():
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    turned = nn_.random_dihedral(image.repeat(800, 1, 1, 1), torch.Generator().manual_seed(0))
    elements = {
        np.ascontiguousarray(np.rot90(side, k, axes=(1, 2))).tobytes()
        for side in (image[0].numpy(), image[0].numpy()[:, :, ::-1])
        for k in range(4)
    }
    counts = dict.fromkeys(elements, 0)
    for result in turned.numpy():
        counts[np.ascontiguousarray(result).tobytes()] += 1
    assert len(counts) == 8
    assert min(counts.values()) > 60


def test_dihedral_refuses_oblong_images():
    with pytest.raises(ValueError, match="square"):
        nn_.random_dihedral(torch.zeros(1, 3, 4, 5))


def test_closed_batches_hold_the_targets_alone(section):
    targets = np.array([12, 6, 7, 20])
    batch = nn_.collate(targets, **section, closed=True)
    assert len(batch.images) == 4
    for row, target in enumerate(targets):
        near = set(section["neighbors"][target]) & set(targets)
        nodes = batch.nodes[row][batch.mask[row]].numpy()
        assert set(np.sort(targets)[nodes]) == {target, *near}
