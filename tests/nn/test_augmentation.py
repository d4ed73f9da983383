from __future__ import annotations

import pytest
import torch

from nh2st.nn import random_stain


def _images(value: int) -> torch.Tensor:
    return torch.full((200, 3, 4, 4), value, dtype=torch.uint8)


def test_stain_scales_the_optical_density_by_a_factor_per_image_and_channel():
    stained = random_stain(_images(128), 0.2, torch.Generator().manual_seed(0)).float()
    assert (stained == stained[:, :, :1, :1]).all(), "one factor for all pixels of a channel"
    log_factor = torch.log(torch.log(stained[:, :, 0, 0] / 255) / torch.log(torch.tensor(128 / 255)))
    assert log_factor.mean() == pytest.approx(0, abs=0.03)
    assert log_factor.std() == pytest.approx(0.2, abs=0.03)
    assert torch.corrcoef(log_factor.T).fill_diagonal_(0).abs().max() < 0.25, "channels vary by themselves"


def test_stain_leaves_white_alone_and_black_finite():
    white, black = (random_stain(_images(value), 0.2, torch.Generator().manual_seed(0)) for value in (255, 0))
    assert (white == 255).all()
    assert black.max() < 40, "unstained white would mean that black had no density"


def test_without_strength_images_stay_as_they_are():
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    assert random_stain(images, 0.0) is images


def test_negative_strength_is_refused():
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        random_stain(_images(9), -0.1)
