"""Model files: tensors and a JSON header in one safetensors file. Reading never executes code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nh2st._keys import NAMESPACE

FORMAT_VERSION = 1
SUFFIX = ".safetensors"


def write_file(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write under a temporary name beside `path`, then rename.

    Raises
    ------
    OSError
        If the folder cannot be written to, or the disk is full.
    """
    text = json.dumps({"format": FORMAT_VERSION, **header})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(dict(tensors), temporary, metadata={NAMESPACE: text})
        # safetensors makes files that their owner alone can read, whatever the user's mask says.
        temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        msg = f"The model could not be written to {path}: {error}. Free space there or name another file."
        raise OSError(msg) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file written by :func:`write_file`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no model of this package, is damaged, or was written by a newer format.
    """
    if not path.is_file():
        msg = f"There is no model file {path}."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        msg = (
            f"{path} cannot be read as a safetensors file ({error}). It may be truncated, or no model at all, "
            "such as the error page of a download."
        )
        raise ValueError(msg) from error
    if NAMESPACE not in metadata:
        msg = f"{path} is a safetensors file, but not a model saved by nh2st."
        raise ValueError(msg)
    try:
        header = json.loads(metadata[NAMESPACE])
        version = int(header["format"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged: its header is not valid ({error})."
        raise ValueError(msg) from error
    if version > FORMAT_VERSION:
        msg = f"{path} has model format {version}; this version of nh2st reads up to {FORMAT_VERSION}. Update nh2st."
        raise ValueError(msg)
    return header, tensors
