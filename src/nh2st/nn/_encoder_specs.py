"""Image encoders by name: of the table, of timm, or of the Hugging Face hub."""

from __future__ import annotations

import inspect
import json
from difflib import get_close_matches
from typing import Any, Final

import timm

from nh2st.nn._encoder_table import ENCODERS, EncoderSpec, triple
from nh2st.nn._hub import HUB, hub_file

_BY_SOURCE: Final = {spec.source.lower(): spec for spec in ENCODERS.values() if spec.source}


def encoder_spec(name: str) -> EncoderSpec:
    """Find the encoder of a name: of the table, of timm, or of the Hugging Face hub.

    Raises
    ------
    ValueError
        If there is no such encoder.
    RuntimeError
        If the configuration of an encoder of the hub cannot be had.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith((HUB, "hf_hub:")):
        source = HUB + name.split(":", 1)[1]
        return _BY_SOURCE.get(source.lower()) or _hub_spec(name, source)
    known = timm.list_models() + timm.list_pretrained()
    if name not in known:
        close = get_close_matches(name, dict.fromkeys([*ENCODERS, *known]), n=5)
        hint = f"Close names: {', '.join(close)}." if close else "timm.list_models() lists the names of timm."
        msg = f"There is no encoder {name!r}, neither in nh.models.encoders() nor in timm. {hint}"
        raise ValueError(msg)
    return EncoderSpec(name, name, _timm_source(name))


def _timm_source(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name)
    hub_id = getattr(config, "hf_hub_id", None)
    # Some files on the hub are arrays of another framework, which timm converts.
    converted = str(getattr(config, "hf_hub_filename", None) or "").endswith(".npz")
    return f"{HUB}{hub_id}" if hub_id and not converted else None


def _hub_spec(name: str, source: str) -> EncoderSpec:
    """Read the configuration that timm models on the hub come with."""
    path = hub_file(name, source, ("config.json",))
    try:
        return _of_config(name, source, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"Encoder {name!r} cannot be built: {path} is no configuration of a timm model ({error})."
        raise ValueError(msg) from error


def _of_config(name: str, source: str, config: dict[str, Any]) -> EncoderSpec:
    architecture = config["architecture"]
    if not timm.is_model(architecture):
        msg = f"timm has no architecture {architecture!r}"
        raise ValueError(msg)
    # What names files or sources is timm's own to say.
    reserved = {*inspect.signature(timm.create_model).parameters, "num_classes", "features_only"}
    arguments = {key: value for key, value in config.get("model_args", {}).items() if key not in reserved}
    weights = config.get("pretrained_cfg", config)
    mean, std = triple(weights.get("mean")), triple(weights.get("std"))
    return EncoderSpec(name, architecture, source, arguments, mean=mean, std=std)
