"""Tensors out of PyTorch's files, which are pickles, without running what is pickled in them.

Nothing that a file names is imported or called: tensors are rebuilt from their shape and bytes, dictionaries, lists and
plain values are what they are, and every other object becomes one that does nothing.
"""

from __future__ import annotations

import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_NESTED = ("state_dict", "model_state_dict", "model")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# No weights need these. They could do nothing here, but whoever wrote them in meant harm.
_HARMFUL_MODULES = frozenset(
    ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "pty", "importlib", "ctypes", "webbrowser")
)
_HARMFUL_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "input", "breakpoint"))


class _Inert:
    """Takes whatever a pickle does to an object or its class, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return _Inert()

    def _ignore(*_: Any, **__: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


class _Dict(dict):
    """An ordered dictionary whose attributes are not restored."""

    def __setstate__(*_: Any) -> None:
        pass


class _Rebuilt(_Inert):
    """A tensor to be: storage, offset, size, stride; or a parameter to be: its tensor."""

    def __init__(self, *arguments: Any, **__: Any) -> None:
        self.arguments = arguments


class _Storage(_Inert):
    """Where a tensor's numbers are in the file."""

    def __init__(self, dtype: torch.dtype, key: str, numel: int) -> None:
        self.dtype, self.key, self.numel = dtype, key, numel


class _Unpickler(pickle.Unpickler):
    """Unpickler that finds no class or function but the stand-ins above."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in _HARMFUL_MODULES or (
            module in ("builtins", "__builtin__") and name.split(".")[0] in _HARMFUL_BUILTINS
        ):
            msg = f"it holds a call of {module}.{name}, which no weights need: it may have been tampered with"
            raise pickle.UnpicklingError(msg)
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
            return _Rebuilt
        if module in ("torch", "torch.cuda", "torch.storage"):
            return _DTYPES.get(name, _Inert)
        return _Inert

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(numel), *view) if numel >= 0 and not any(view):
                return self.storages.setdefault(key, _Storage(dtype, key, numel))
        msg = "a tensor of a kind that is not read here"
        raise pickle.UnpicklingError(msg)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file written by ``torch.save``, under ``"state_dict"`` or not.

    Raises
    ------
    ValueError
        If the file is no whole file of PyTorch, or holds no named tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _of_archive(archive)
        with path.open("rb") as file:
            return _of_stream(file)
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, MemoryError, OverflowError),
        *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError),
    ) as error:
        msg = (
            f"{path} cannot be read as weights: {str(error) or type(error).__name__}. It must be a whole PyTorch or "
            "safetensors file that holds named tensors (a download may have been cut short, or be a web page)."
        )
        raise ValueError(msg) from error


def _of_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl")]
    if len(roots) != 1:
        msg = "a zip file, but none of PyTorch"
        raise ValueError(msg)
    if f"{roots[0]}byteorder" in archive.namelist() and archive.read(f"{roots[0]}byteorder").decode() != sys.byteorder:
        msg = "written on a machine with another order of bytes"
        raise ValueError(msg)
    with archive.open(_stored(archive, f"{roots[0]}data.pkl")) as file:
        unpickler = _Unpickler(file)
        content = unpickler.load()
    return _named_tensors(content, lambda storage: archive.read(_stored(archive, f"{roots[0]}data/{storage.key}")))


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        msg = "its parts are compressed, which PyTorch never does"
        raise ValueError(msg)
    return entry


def _of_stream(file: IO[bytes]) -> dict[str, Tensor]:
    """Read the form of before PyTorch 1.6: pickles of number, version, system, content and keys, then the storages."""
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_VERSION:
        msg = "it does not begin as files of PyTorch do"
        raise ValueError(msg)
    _Unpickler(file).load()
    unpickler = _Unpickler(file)
    content = unpickler.load()
    parts: dict[str, bytes] = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel:
            msg = f"storage {key} has another size than its tensors"
            raise ValueError(msg)
        parts[key] = file.read(numel * storage.dtype.itemsize)
    return _named_tensors(content, lambda storage: parts[storage.key])


def _named_tensors(content: Any, read: Callable[[_Storage], bytes]) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    rebuilt = _rebuilt(content) if isinstance(content, dict) else {}
    if not rebuilt:
        msg = "it holds no state dict of named tensors"
        raise ValueError(msg)
    storages: dict[str, Tensor] = {}
    return {name: _tensor(arguments, read, storages) for name, arguments in rebuilt.items()}


def _rebuilt(content: Mapping[Any, Any]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for name, value in content.items():
        if isinstance(value, _Rebuilt) and value.arguments and isinstance(value.arguments[0], _Rebuilt):
            value = value.arguments[0]
        if isinstance(name, str) and isinstance(value, _Rebuilt):
            found[name] = value.arguments
    return found


def _tensor(arguments: tuple[Any, ...], read: Callable[[_Storage], bytes], storages: dict[str, Tensor]) -> Tensor:
    storage, offset, size, stride = arguments[:4]
    if storage.key not in storages:
        data = bytearray(read(storage))
        if len(data) != storage.numel * storage.dtype.itemsize:
            msg = f"storage {storage.key} is not whole"
            raise ValueError(msg)
        empty = torch.empty(0, dtype=storage.dtype)
        storages[storage.key] = torch.frombuffer(data, dtype=storage.dtype) if data else empty
    if math.prod(size) > storage.numel:
        msg = "a tensor is larger than its storage"
        raise ValueError(msg)
    # Checks that nothing outside the storage is reached.
    return storages[storage.key].as_strided(size, stride, offset)
