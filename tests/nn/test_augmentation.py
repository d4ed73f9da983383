from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed

from nh2st._torch import dihedral
from nh2st.nn import random_stain


def _images(value: int) -> torch.Tensor:
    return torch.full((200, 3, 4, 4), value, dtype=torch.uint8)


def _tissue(n: int) -> torch.Tensor:
    """Patches (n, 3, 8, 8) of pixels with some of each dye, none of which is clipped."""
    amounts = np.random.default_rng(0).uniform(0.03, 0.07, (n, 8, 8, 3))
    return torch.from_numpy(np.round(255 * hed2rgb(amounts)).astype(np.uint8)).permute(0, 3, 1, 2)


def _dyes(images: torch.Tensor) -> np.ndarray:
    """Amounts (n, pixels, 3) of hematoxylin, eosin and the residual."""
    return rgb2hed(images.permute(0, 2, 3, 1).numpy()).reshape(len(images), -1, 3)


def _factors(images: torch.Tensor, stained: torch.Tensor) -> np.ndarray:
    """What the amount of each dye (n, 3) was multiplied by, fitted over the pixels."""
    before, after = _dyes(images), _dyes(stained)
    return (before * after).sum(1) / (before**2).sum(1)


def test_stain_multiplies_each_dye_by_one_factor_per_image():
    images = _tissue(20)
    stained = random_stain(images, 0.1, torch.Generator().manual_seed(0))
    factors = _factors(images, stained)
    expected = 255 * hed2rgb((_dyes(images) * factors[:, None]).reshape(20, 8, 8, 3))
    assert (stained == images).float().mean() < 0.2
    np.testing.assert_allclose(stained.permute(0, 2, 3, 1), expected, atol=1)


def test_factors_of_the_dyes_are_log_normal_and_independent():
    images = _tissue(300)
    log_factors = np.log(_factors(images, random_stain(images, 0.2, torch.Generator().manual_seed(0))))
    np.testing.assert_allclose(log_factors.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(log_factors.std(0), 0.2, atol=0.03)
    assert abs(np.corrcoef(log_factors.T) - np.eye(3)).max() < 0.15


def test_stain_leaves_white_alone_and_black_finite():
    white, black = (random_stain(_images(value), 0.2, torch.Generator().manual_seed(0)) for value in (255, 0))
    assert (white == 255).all()
    assert black.max() < 40, "unstained white would mean that black had no density"


def test_colours_that_no_dye_has_are_clipped():
    pure = torch.zeros(3, 3, 1, 1, dtype=torch.uint8)
    pure[range(3), range(3)] = 255
    stained = random_stain(pure.repeat(100, 1, 1, 1), 0.3, torch.Generator().manual_seed(0)).reshape(100, 3, 3)
    own = stained[:, range(3), range(3)]
    assert (own == 255).any(), "brighter than white is white, and does not wrap around to black"
    assert (stained.argmax(2) == torch.arange(3)).float().mean() > 0.9


def test_stain_is_the_same_in_any_layout_and_precision():
    images = _tissue(3)
    stained = [random_stain(given, 0.2, torch.Generator().manual_seed(1)) for given in (images, images.contiguous())]
    with torch.autocast("cpu", torch.bfloat16):
        stained.append(random_stain(images, 0.2, torch.Generator().manual_seed(1)))
    assert stained[0].dtype == torch.uint8
    assert torch.equal(stained[0], stained[1])
    assert torch.equal(stained[0], stained[2])


def test_with_next_to_no_strength_all_grey_levels_stay():
    images = torch.randint(256, (5, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = images.clamp(min=1)
    assert torch.equal(random_stain(images, 1e-7), expected), "rounded, not cut off"


def test_without_strength_images_stay_as_they_are():
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    assert random_stain(images, 0.0) is images


def test_negative_strength_is_refused():
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        random_stain(_images(9), -0.1)


def test_dihedral_yields_each_of_the_eight_elements_once():
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    elements = [
        np.rot90(side, turns, axes=(2, 3)) for side in (images.numpy(), images.numpy()[..., ::-1]) for turns in range(4)
    ]
    yielded = [turned.numpy() for turned in dihedral(images)]
    assert len(yielded) == 8
    assert {turned.tobytes() for turned in map(np.ascontiguousarray, yielded)} == {
        turned.tobytes() for turned in map(np.ascontiguousarray, elements)
    }
