from __future__ import annotations

import pytest
import torch
from torch import nn

import nh2st.nn as nn_

IMAGES = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

# The model, how many last blocks, and the parts whose weights are then trained.
LAST = [
    ("test_resnet", 1, {"layer4"}),
    ("test_resnet", 3, {"layer2", "layer3", "layer4"}),
    ("test_efficientnet", 1, {"blocks.4", "conv_head", "bn2"}),
    ("tf_efficientnet_lite0", 2, {"blocks.5", "blocks.6", "conv_head", "bn2"}),
    ("test_convnext", 1, {"stages.3", "head"}),
    ("test_vit", 1, {"blocks.5", "norm"}),
    ("test_vit", 2, {"blocks.4", "blocks.5", "norm"}),
]


def _parts(names: list[str]) -> set[str]:
    split = [name.removeprefix("model.").split(".") for name in names]
    return {".".join(name[:2]) if name[0] in ("blocks", "stages") else name[0] for name in split}


def _step(encoder: nn_.Encoder) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State before and after one step of training."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    optimizer = torch.optim.SGD([value for value in encoder.parameters() if value.requires_grad], lr=1.0)
    encoder.maps(IMAGES).square().mean().backward()
    optimizer.step()
    return before, encoder.state_dict()


@pytest.mark.parametrize(("name", "blocks", "parts"), LAST)
def test_last_blocks_alone_change(name, blocks, parts):
    encoder = nn_.create_encoder(name, weights=None)
    encoder.fine_tune(blocks)
    assert encoder.trained == blocks
    assert _parts([key for key, value in encoder.named_parameters() if value.requires_grad]) == parts
    before, after = _step(encoder)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert _parts(list(changed)) <= parts


def test_everything_changes_in_the_beginning():
    encoder = nn_.create_encoder("test_resnet", weights=None)
    assert encoder.trained == "all"
    before, after = _step(encoder)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key for key in before if key.endswith("running_mean")} < changed
    assert {"model.conv1.0.weight", "model.layer4.0.bn2.weight"} < changed


def test_nothing_is_trained():
    encoder = nn_.create_encoder("test_resnet", weights=None)
    encoder.fine_tune("none")
    maps = encoder.train().maps(IMAGES)
    assert not maps.requires_grad
    assert not any(value.requires_grad for value in encoder.parameters())
    torch.testing.assert_close(maps, encoder.eval().maps(IMAGES))


@pytest.mark.parametrize("blocks", ["none", 1])
def test_untrained_normalisations_stay_as_they_are_whatever_the_mode(blocks):
    encoder = nn_.create_encoder("test_resnet", weights=None)
    encoder.fine_tune(blocks)
    network = nn.Sequential(encoder)
    for mode in (True, False, True):
        network.train(mode)
        norms = {name: part for name, part in encoder.model.named_modules() if isinstance(part, nn.BatchNorm2d)}
        for name, part in norms.items():
            assert part.training == (mode and blocks == 1 and name.startswith("layer4")), name


def test_choice_can_be_taken_back():
    encoder = nn_.create_encoder("test_resnet", weights=None)
    encoder.fine_tune("none")
    encoder.fine_tune("all")
    assert all(value.requires_grad for value in encoder.parameters())
    assert all(part.training for part in encoder.modules())


def test_features_leave_the_untrained_part_in_evaluation_mode():
    encoder = nn_.create_encoder("test_resnet", weights=None)
    encoder.fine_tune(1)
    encoder.features(IMAGES)
    assert encoder.model.layer4.training
    assert not encoder.model.layer3.training
    assert not encoder.model.bn1.training


@pytest.mark.parametrize("blocks", [0, 5, -1, 1.0, True, "last", None])
def test_blocks_that_there_are_not(blocks):
    encoder = nn_.create_encoder("test_resnet", weights=None)
    expected = 'has 4 blocks or stages: its trained part can be "all" or "none", or the last 1 to 4, not'
    with pytest.raises(ValueError, match=expected):
        encoder.fine_tune(blocks)
    assert all(value.requires_grad for value in encoder.parameters())


def test_models_whose_blocks_timm_does_not_know():
    encoder = nn_.create_encoder("pit_ti_224", weights=None)
    with pytest.raises(ValueError, match='no blocks or stages that timm knows: .* can be "all" or "none", not 1'):
        encoder.fine_tune(1)
    encoder.fine_tune("none")
    assert not any(value.requires_grad for value in encoder.parameters())
