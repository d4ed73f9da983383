from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from nh2st.nn._config import NetworkConfig

_WRAPPER = "model."
_UNUSED = ("fc_target.", "fc_neighbor.", "fc_nuclei.", "fc_global.")
_BLOCKS = "cross_encoder.fusion_layer.layers"

_MAP_CHANNELS = 512
_MAP_STRIDE = 32

_STAGES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
_HYPERGRAPHS = {"neighbor_encoder": "image_hypergraph", "neighbor_exp_encoder": "gene_hypergraph"}
_LAYERS = {
    "fc": "image_projection",
    "exp_encoder.0": "gene_encoder.0",
    "exp_encoder.1": "gene_encoder.1",
    "cross_encoder.norm": "cross_attention.norm",
    "decoder.fc1": "head.0",
    "decoder.fc2": "head.1",
}
_BLOCK_LAYERS = {
    "0.norm": "attention.norm",
    "0.fn.to_out.0": "attention.project.0",
    "1.norm": "feed_forward.0",
    "1.fn.net.0": "feed_forward.1",
    "1.fn.net.3": "feed_forward.4",
}


def released_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a network that was trained with the code its authors released.

    Parameters
    ----------
    state
        State dict of the released network (a ResNet18 encoder), its names with or without the prefix ``"model."``.
        Layers that the released network holds but never uses are left out.

    Returns
    -------
    State dict of the :class:`NH2ST` with ``encoder="resnet18"`` and the same settings.

    Raises
    ------
    ValueError
        If weights are missing or unknown; the message lists them.
    """
    given = {key.removeprefix(_WRAPPER): value for key, value in state.items()}
    given = {key: value for key, value in given.items() if not key.startswith(_UNUSED)}
    names = _released_names(given)
    missing, unexpected = sorted(names.keys() - given.keys()), sorted(given.keys() - names.keys())
    if missing or unexpected:
        msg = (
            "These are not the weights of a released NH2ST network. "
            f"Missing: {', '.join(missing) or 'none'}. Unexpected: {', '.join(unexpected) or 'none'}."
        )
        raise ValueError(msg)
    normalization = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    buffers = {f"encoder.{key}": torch.tensor(value).reshape(-1, 1, 1) for key, value in normalization.items()}
    return {new: given[old] for old, new in names.items()} | buffers


def released_config(state: Mapping[str, Tensor]) -> NetworkConfig:
    """Read the settings of a released network off the shapes of its weights.

    Parameters
    ----------
    state
        State dict of the released network, for which :func:`released_state_dict` found nothing missing.

    Returns
    -------
    Configuration of the :class:`NH2ST` that its weights fit. The number of attention heads is not in them: 8, or 1
    where attention has no output projection.

    Raises
    ------
    ValueError
        If the shapes are none of such a network.
    """
    shapes = {key.removeprefix(_WRAPPER): (*value.shape,) for key, value in state.items()}
    try:
        width, n_map = shapes["fc.weight"]
        hidden, _ = shapes[f"{_BLOCKS}.0.1.fn.net.0.weight"]
        n_genes, _ = shapes["decoder.fc2.weight"]
    except ValueError as error:
        msg = "The weights of its linear layers are no matrices."
        raise ValueError(msg) from error
    return NetworkConfig(
        n_genes=n_genes,
        encoder="resnet18",
        patch_px=math.isqrt(n_map // _MAP_CHANNELS) * _MAP_STRIDE,
        width=width,
        depth=len(_blocks(shapes)),
        heads=8 if any(".to_out." in key for key in shapes) else 1,
        mlp_ratio=hidden / width,
    )


def _blocks(names: Iterable[str]) -> set[str]:
    return {name.removeprefix(f"{_BLOCKS}.").split(".")[0] for name in names if name.startswith(_BLOCKS)} | {"0"}


def _released_names(given: Iterable[str]) -> dict[str, str]:
    """Released name of every weight of the network, and ours."""
    given = list(given)
    with torch.device("meta"):
        resnet = timm.create_model("resnet18", num_classes=0).state_dict()
    stages = [key.partition(".") for key in resnet]
    names = {f"target_encoder.{_STAGES[stage]}.{rest}": f"encoder.model.{stage}.{rest}" for stage, _, rest in stages}
    for old, new in _HYPERGRAPHS.items():
        for layer in ("layer1", "layer2"):
            names[f"{old}.{layer}.conv.lin.weight"] = f"{new}.{layer}.theta.weight"
            names[f"{old}.{layer}.conv.bias"] = f"{new}.{layer}.bias"
    layers = dict(_LAYERS)
    one_head = not any(".to_out." in key for key in given)
    for block in _blocks(given):
        old_block, new_block = f"{_BLOCKS}.{block}", f"cross_attention.blocks.{block}"
        names[f"{old_block}.0.fn.to_q.weight"] = f"{new_block}.attention.to_query.weight"
        names[f"{old_block}.0.fn.to_kv.weight"] = f"{new_block}.attention.to_key_value.weight"
        layers |= {
            f"{old_block}.{old}": f"{new_block}.{new}"
            for old, new in _BLOCK_LAYERS.items()
            if not (one_head and "to_out" in old)
        }
    return names | {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in ("weight", "bias")}
