"""Encoders run by OpenVINO where it is installed: on a CPU the same numbers in a fraction of the time."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from importlib.util import find_spec
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nh2st._patches import Windows
from nh2st._settings import logger, settings
from nh2st.nn import Encoder
from nh2st.nn._encoder import evaluating

_LEAST_PIXELS = 128 * 224**2
"""A conversion takes about as long as to encode this many pixels of patches without it."""
_TOLERANCE = 1e-3
_TELEMETRY = "openvino_telemetry"


def pays_off(windows: Sequence[Windows]) -> bool:
    """Whether OpenVINO is there, and there are enough patches to convert an encoder for them."""
    there = settings.openvino and find_spec("openvino") is not None
    return there and sum(len(one) * one.patch_px**2 for one in windows) >= _LEAST_PIXELS


def with_openvino(module: nn.Module, patch_px: int) -> nn.Module:
    """A module on the CPU with its encoders run by OpenVINO; other weights are shared with the module.

    Encoders that OpenVINO cannot run stay as they are, after a warning.
    """
    # Only the modules are copied: the caller's encoders go on with torch.
    copied = copy.deepcopy(module, {id(weight): weight for weight in (*module.parameters(), *module.buffers())})
    for encoder, its_copy in zip(_encoders(module), _encoders(copied), strict=True):
        if (compiled := _find_or_compile(encoder, patch_px)) is not None:
            its_copy.forward = partial(_forward, its_copy, compiled)  # type: ignore[method-assign]
    return copied


def _encoders(module: nn.Module) -> list[Encoder]:
    return [one for one in module.modules() if isinstance(one, Encoder)]


class _Compiled:
    """An encoder as OpenVINO runs it in float32, one batch at a time."""

    def __init__(self, run: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
        self._run, self._shape, self._busy = run, shape, Lock()

    def takes(self, images: Tensor) -> bool:
        return images.dtype == torch.uint8 and images.shape[1:] == self._shape

    def __call__(self, images: Tensor) -> Tensor:
        with self._busy:
            return torch.from_numpy(self._run(images.contiguous().numpy())[0].copy())


_known: WeakKeyDictionary[Encoder, tuple[Hashable, _Compiled | None]] = WeakKeyDictionary()


def _forward(encoder: Encoder, compiled: _Compiled, images: Tensor) -> Tensor:
    return compiled(images) if compiled.takes(images) else type(encoder).forward(encoder, images)


def _find_or_compile(encoder: Encoder, patch_px: int) -> _Compiled | None:
    weights = [(one.data_ptr(), one._version) for one in encoder.state_dict().values()]
    key = (patch_px, torch.get_num_threads(), *weights)
    known, compiled = _known.get(encoder, (None, None))
    if known == key:
        return compiled
    try:
        compiled = _compile(encoder, patch_px)
        logger.info("Encoder %r is run by OpenVINO.", encoder.name)
    except Exception as error:  # noqa: BLE001 - whatever OpenVINO lacks for an encoder, torch has
        compiled = None
        reason = str(error).strip().partition("\n")[0]
        logger.warning("OpenVINO cannot run encoder %r, so that torch does: %s", encoder.name, reason)
    _known[encoder] = key, compiled
    return compiled


def _compile(encoder: Encoder, patch_px: int) -> _Compiled:
    """Convert an encoder.

    Raises
    ------
    ValueError
        If it does not give what torch gives.
    """
    openvino = _import_openvino()
    shape = (patch_px, patch_px, 3)
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    with evaluating(encoder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(encoder, example, check_trace=False)
        model = openvino.convert_model(traced, example_input=example, input=[(-1, *shape)])
    # Without the hint, processors with units for half precision would compute in it.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = _Compiled(openvino.Core().compile_model(model, "CPU", {**hints, "PERFORMANCE_HINT": "LATENCY"}), shape)
    _compare(encoder, compiled, torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator()))
    return compiled


def _compare(encoder: Encoder, compiled: _Compiled, images: Tensor) -> None:
    with evaluating(encoder):
        expected = encoder(images)
    given = compiled(images)
    if given.shape != expected.shape or not (given - expected).abs().max() <= _TOLERANCE * expected.abs().max():
        msg = "it gives other numbers."
        raise ValueError(msg)


def _import_openvino() -> Any:
    """OpenVINO without the package that reports imports and conversions to its makers: nothing leaves this machine."""
    before = sys.modules.get(_TELEMETRY)
    if before is None:
        # An import of it fails then, for which OpenVINO is prepared.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
        import openvino.tools.ovc.convert_impl
    finally:
        if before is None:
            del sys.modules[_TELEMETRY]
    return openvino
