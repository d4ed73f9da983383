"""PyTorch's files give their tensors, and nothing that is pickled in them is run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nh2st._torch import read_tensors

FORMATS = {"zip": True, "before 1.6": False}


class Hyperparameters(dict):
    """Such as Lightning keeps: a dictionary of a class that the reader need not have."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.of_its_own = argparse.Namespace(path=Path("a"), values={1, 2})


def _state() -> dict[str, torch.Tensor]:
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    numbers = torch.arange(24.0).reshape(4, 6)
    return state | {
        "transposed": numbers.T,
        "shared": numbers[1:3, ::2],
        "half": torch.ones(3, dtype=torch.float16),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.full((2, 2), 0.5)),
        "scalar": torch.tensor(7),
    }


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("nested", [True, False])
def test_tensors_are_those_that_were_saved(tmp_path, zipped, nested):
    state = _state()
    extra = {
        "hyper_parameters": Hyperparameters(lr=0.1, path=Path("b"), device=torch.device("cpu")),
        "numbers": (np.float64(1), np.arange(3), collections.defaultdict(list, {1: [2]})),
        "optimizer_states": [torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict()],
    }
    content = {"state_dict": collections.OrderedDict(state)} | extra if nested else state
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "w.ckpt")
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.call

    def __call__(self) -> None:
        """Pickle asks that what is called can be."""


def _stack_global(code: str) -> bytes:
    """Pickle of eval(code), its name made on the stack."""
    words = (pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode() for word in ("builtins", "eval"))
    text = pickle.BINUNICODE + len(code.encode()).to_bytes(4, "little") + code.encode()
    return pickle.PROTO + b"\x04" + b"".join(words) + pickle.STACK_GLOBAL + text + pickle.TUPLE1 + pickle.REDUCE + b"."


def _inst(code: str) -> bytes:
    """Pickle of os.system(code), in the oldest protocol."""
    return pickle.MARK + pickle.STRING + repr(code).encode() + b"\n" + pickle.INST + b"os\nsystem\n" + b"."


def _attacks(canary: Path) -> dict[str, Any]:
    make = f"__import__('os').mkdir({str(canary)!r})"
    shell = f"mkdir {canary}"
    inner = io.BytesIO()
    torch.save({"state_dict": {}, "x": Call(os.mkdir, str(canary))}, inner)
    return {
        "function": Call(os.mkdir, str(canary)),
        "shell": Call(os.system, shell),
        "eval": Call(eval, make),
        "getattr": Call(Call(getattr, Call(__import__, "os"), "mkdir"), str(canary)),
        "nested": [{"a": (Call(exec, make),)}],
        "state": Call(Hyperparameters, state={"x": Call(os.system, shell)}),
        "storage": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "partial": Call(partial(torch.load, io.BytesIO(inner.getvalue()), weights_only=False)),
        "loads": Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(canary)))),
        "map": Call(list, Call(map, os.mkdir, [str(canary)])),
    }


ATTACKS = list(_attacks(Path("x")))


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_real(tmp_path, attack):
    torch.save(_attacks(tmp_path / "owned")[attack], tmp_path / "w.pth")
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_pickled_calls_are_never_made(tmp_path, attack, zipped, suffix):
    path = tmp_path / f"weights{suffix}"
    malice = _attacks(tmp_path / "owned")[attack]
    torch.save({"state_dict": {"a": torch.ones(2)}, "extra": malice}, path, _use_new_zipfile_serialization=zipped)
    try:
        assert list(read_tensors(path)) == ["a"]
    except ValueError as error:
        assert f"weights{suffix} cannot be read as weights" in str(error)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("place", ["content", "state", "tensor", "key"])
def test_malice_in_the_place_of_weights(tmp_path, place):
    malice = Call(os.mkdir, str(tmp_path / "owned"))
    contents = {
        "content": malice,
        "state": {"state_dict": malice},
        "tensor": {"state_dict": {"a": malice}},
        "key": {"state_dict": {Call(eval, f"__import__('os').mkdir({str(tmp_path / 'owned')!r})"): torch.ones(1)}},
    }
    torch.save(contents[place], tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth cannot be read as weights: it holds a call of"):
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


def _archive(path: Path, content: bytes, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in parts.items():
            archive.writestr(f"archive/data/{name}", data)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("attack", ["stack global", "inst", "extension"])
def test_pickles_made_by_hand(tmp_path, attack, zipped):
    canary = tmp_path / "owned"
    contents = {
        "stack global": _stack_global(f"__import__('os').mkdir({str(canary)!r})"),
        "inst": _inst(f"mkdir {canary}"),
        "extension": pickle.PROTO + b"\x02" + pickle.EXT1 + b"\x01" + b".",
    }
    path = tmp_path / "w.pth"
    _archive(path, contents[attack]) if zipped else path.write_bytes(contents[attack])
    with pytest.raises(ValueError, match=r"w\.pth cannot be read as weights"):
        read_tensors(path)
    assert not canary.exists()
    if attack != "extension":
        pickle.loads(contents[attack])
        assert canary.exists()


def test_a_file_cannot_change_how_the_next_is_read(tmp_path):
    """Pickles can set attributes of what they name: here of the class that stands for rebuilt tensors."""
    build = b"ctorch._utils\n_rebuild_tensor_v2\n" + b"(N}" + b"S'__init__'\nccollections\nOrderedDict\nstb0"
    path = _archive(tmp_path / "bad.pth", pickle.PROTO + b"\x02" + build + b"}.")
    with pytest.raises(ValueError, match=r"bad\.pth"):
        read_tensors(path)
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    assert torch.equal(read_tensors(tmp_path / "good.pth")["a"], torch.ones(2))


class _Persistent:
    """What a storage is pickled as."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.pid if isinstance(value, _Persistent) else None


def _tensor_file(path: Path, *arguments: Any, numel: Any = 4, data: bytes = bytes(16)) -> Path:
    content = io.BytesIO()
    storage = _Persistent("storage", torch.FloatStorage, "0", "cpu", numel)
    rebuilt = Call(torch._utils._rebuild_tensor_v2, storage, *arguments, False, collections.OrderedDict())
    _Pickler(content, protocol=2).dump({"a": rebuilt})
    return _archive(path, content.getvalue(), **{"0": data})


def test_tensor_made_by_hand(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    read = read_tensors(_tensor_file(tmp_path / "w.pth", 1, (3,), (1,), data=data))
    assert read["a"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ((0, (5,), (1,)), {}),
        ((2, (3,), (1,)), {}),
        ((0, (2, 2), (4, 1)), {}),
        ((-1, (2,), (1,)), {}),
        ((0, (2,), (-1,)), {}),
        ((0, (-2,), (1,)), {}),
        ((0, (1 << 40,), (0,)), {}),
        ((0, (2.5,), (1,)), {}),
        ((0, "ab", (1,)), {}),
        ((0, (4,), (1,)), {"data": bytes(12)}),
        ((0, (4,), (1,)), {"data": bytes(20)}),
        ((0, (4,), (1,)), {"numel": 1 << 40}),
        ((0, (4,), (1,)), {"numel": -1}),
        ((0, (4,), (1,)), {"numel": "4"}),
    ],
)
def test_tensors_outside_of_their_bytes(tmp_path, arguments, changes):
    with pytest.raises(ValueError, match=r"w\.pth cannot be read as weights"):
        read_tensors(_tensor_file(tmp_path / "w.pth", *arguments, **changes))


def test_compressed_parts_are_refused(tmp_path):
    """Of which little could become very much."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive, zipfile.ZipFile(tmp_path / "z.pth", "w", 8) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(ValueError, match="compressed"):
        read_tensors(tmp_path / "z.pth")


@pytest.mark.parametrize("kind", ["html", "empty", "zip", "text pickle", "torchscript", "no tensors"])
def test_files_that_are_no_weights(tmp_path, kind):
    path = tmp_path / "w.pth"
    if kind == "torchscript":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    elif kind == "no tensors":
        torch.save({"epoch": 3}, path)
    elif kind == "zip":
        zipfile.ZipFile(path, "w").close()
    else:
        contents = {"html": b"<html>404</html>", "empty": b"", "text pickle": pickle.dumps({"a": 1})}
        path.write_bytes(contents[kind])
    with pytest.raises(ValueError, match=r"w\.pth cannot be read as weights"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, zipped, part):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"w\.pth cannot be read as weights"):
        read_tensors(path)
