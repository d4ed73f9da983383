"""Feature maps that are computed once, and pooled maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nh2st.nn as nn_


@torch.no_grad()
def test_maps_stand_in_for_patches(network, section):
    batch = nn_.collate(np.array([3, 12]), **section)
    maps = network.maps(batch.images)
    assert maps.shape == (len(batch.images), *network.map_shape)
    for name, value in network(batch)._asdict().items():
        torch.testing.assert_close(getattr(network(replace(batch, images=maps)), name), value, msg=name)
    torch.testing.assert_close(network.predict(maps), network.predict(batch.images))
    torch.testing.assert_close(network.predict(maps.half()), network.predict(batch.images), rtol=1e-2, atol=1e-3)


def test_maps_of_another_shape_are_refused(network):
    with pytest.raises(ValueError, match=r"takes feature maps of shape \(\d+, 3, 3\), not \(7, 3, 3\)"):
        network.predict(torch.zeros(2, 7, 3, 3))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit"])
def test_pooled_map_is_the_features(config, section, encoder):
    patch_px = 96 if encoder == "test_resnet" else 160
    settings = replace(config, encoder=encoder, map_px=1, patch_px=patch_px)
    network = nn_.NH2ST(settings, encoder_weights=None).eval()
    images = torch.from_numpy(section["images"][:3]).repeat_interleave(2, 1).repeat_interleave(2, 2)
    images = images[:, :patch_px, :patch_px]
    assert network.map_shape == (network.encoder.n_features, 1, 1)
    torch.testing.assert_close(network.maps(images).flatten(1), network.encoder.features(images))


@torch.no_grad()
def test_map_is_averaged_in_blocks(config, section):
    images = torch.from_numpy(section["images"][:2])
    whole = nn_.NH2ST(config, encoder_weights=None)
    pooled = nn_.NH2ST(replace(config, map_px=1), encoder_weights=None)
    pooled.encoder.load_state_dict(whole.encoder.state_dict())
    torch.testing.assert_close(pooled.maps(images)[..., 0, 0], whole.maps(images).mean((2, 3)))
    with pytest.raises(ValueError, match="map_px=9 is more than the 3 x 3 positions"):
        nn_.NH2ST(replace(config, map_px=9), encoder_weights=None)
    with pytest.raises(ValueError, match="map_px must be at least 1"):
        replace(config, map_px=0)
