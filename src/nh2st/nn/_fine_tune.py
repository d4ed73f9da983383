"""Which part of an image encoder is trained: its last blocks, and what of it stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

_OF_NO_BLOCK = "\0"


def train_blocks(model: Any, blocks: int) -> None:
    """Let gradients reach the last blocks of a timm model and all that follows them, and nothing before.

    Parameters
    ----------
    model
        A timm model.
    blocks
        How many of its last blocks; of a convolutional network, of its last stages.

    Raises
    ------
    ValueError
        If the model has fewer blocks, or none that timm knows.
    """
    first = _first_weights(model)
    name = model.pretrained_cfg["architecture"]
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= len(first):
        has = f"{len(first)} blocks or stages" if first else "no blocks or stages that timm knows"
        ways = '"all" or "none"' + (f", or the last 1 to {len(first)}" if first else "")
        msg = f"Encoder {name!r} has {has}: its trained part can be {ways}, not {blocks!r}."
        raise ValueError(msg)
    trained = False
    for weight, value in model.named_parameters():
        trained = trained or weight == first[-blocks]
        value.requires_grad_(trained)


def untrained(module: nn.Module) -> Iterator[nn.Module]:
    """Largest parts of a module that come before its first trained weight."""
    for child in module.children():
        if any(value.requires_grad for value in child.parameters()):
            yield from untrained(child)
            return
        yield child


def _first_weights(model: Any) -> list[str]:
    """First weight of each block, in order: of timm's groups without the stem and what belongs to no block."""
    try:
        matcher = model.group_matcher(coarse=True)
    except (AttributeError, AssertionError):
        return []
    if not isinstance(matcher, dict):
        return []
    names = [name for name, _ in model.named_parameters()]
    groups = group_with_matcher(((name, None) for name in (*names, _OF_NO_BLOCK)), matcher, reverse=True)
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(groups[name], name)
    stem = groups[names[0]]
    return [name for group, name in sorted(first.items()) if group not in (stem, groups[_OF_NO_BLOCK])]
