"""Encoders run by OpenVINO where it is installed: on a CPU the same numbers in a fraction of the time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Sequence
from functools import partial
from importlib.util import find_spec
from math import ceil
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._inference._int8 import compare_features, quantize, tissue_patches
from nh2st._inference._telemetry import without_telemetry
from nh2st._patches import Windows
from nh2st._settings import logger, settings
from nh2st._torch import evaluating
from nh2st.nn import Encoder

_LEAST_PIXELS = 128 * 224**2
"""A conversion takes about as long as to encode this many pixels of patches without it."""
_TOLERANCE = 1e-3
_N_COMPARED = 16
_MOST_AT_ONCE = 4

CpuPrecision: TypeAlias = Literal["32", "int8"]


def pays_off(windows: Sequence[Windows]) -> bool:
    """Whether OpenVINO is there, and there are enough patches to convert an encoder for them."""
    there = settings.openvino and find_spec("openvino") is not None
    return there and sum(len(window) * window.patch_px**2 for window in windows) >= _LEAST_PIXELS


def with_openvino(module: nn.Module, patch_px: int, precision: CpuPrecision = "32") -> nn.Module:
    """A module on the CPU with its encoders run by OpenVINO; other weights are shared with the module.

    Encoders that OpenVINO cannot run stay as they are, after a warning.

    Raises
    ------
    RuntimeError
        If an encoder cannot be run in 8-bit integers.
    """
    # Only the modules are copied: the caller's encoders go on with torch.
    copied = copy.deepcopy(module, {id(weight): weight for weight in (*module.parameters(), *module.buffers())})
    for encoder, its_copy in zip(_encoders(module), _encoders(copied), strict=True):
        if (compiled := _find_or_compile(encoder, patch_px, precision)) is not None:
            its_copy.forward = partial(_forward, its_copy, compiled)  # type: ignore[method-assign]
    return copied


def _encoders(module: nn.Module) -> list[Encoder]:
    return [part for part in module.modules() if isinstance(part, Encoder)]


class _OpenVinoEncoder:
    """An encoder as OpenVINO runs it, one batch at a time: a few patches a thread, which stay in its cache."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._busy = compiled, Lock()
        shapes = (list(port.partial_shape)[1:] for port in (compiled.input(0), compiled.output(0)))
        self._shape, self._row_shape = (tuple(length.get_length() for length in shape) for shape in shapes)
        self._queue = self._new_queue()

    def takes(self, images: Tensor) -> bool:
        return images.dtype == torch.uint8 and images.shape[1:] == self._shape

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.contiguous().numpy()
        rows = np.empty((len(pixels), *self._row_shape), dtype=np.float32)
        with self._busy:
            try:
                self._run(pixels, rows)
            except Exception:
                # The queue would raise the same error for every batch from now on.
                self._queue = self._new_queue()
                raise
        return torch.from_numpy(rows)

    def _run(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        at_once = min(_MOST_AT_ONCE, ceil(len(pixels) / len(self._queue)))
        parts = [slice(first, first + at_once) for first in range(0, len(pixels), at_once)]
        filled: list[slice] = []
        for part in parts:
            self._queue.start_async(pixels[part], (rows, part, filled))
        self._queue.wait_all()
        if len(filled) < len(parts):
            msg = "OpenVINO gave no result for some patches."
            raise RuntimeError(msg)

    def _new_queue(self) -> Any:
        with without_telemetry():
            from openvino import AsyncInferQueue

        queue = AsyncInferQueue(self._compiled)
        queue.set_callback(_copy_rows)
        return queue


def _copy_rows(request: Any, place: tuple[np.ndarray, slice, list[slice]]) -> None:
    rows, part, filled = place
    rows[part] = request.get_output_tensor(0).data
    filled.append(part)


class _Conversion(NamedTuple):
    """What came of a conversion of an encoder with certain weights: the encoder, or why there is none."""

    key: Hashable
    compiled: _OpenVinoEncoder | None
    reason: str


_known: WeakKeyDictionary[Encoder, dict[CpuPrecision, _Conversion]] = WeakKeyDictionary()


def _forward(encoder: Encoder, compiled: _OpenVinoEncoder, images: Tensor) -> Tensor:
    pixels = images if images.shape[-1] == 3 else images.movedim(1, -1)
    return compiled(pixels) if compiled.takes(pixels) else type(encoder).forward(encoder, images)


def _find_or_compile(encoder: Encoder, patch_px: int, precision: CpuPrecision) -> _OpenVinoEncoder | None:
    weights = [(weight.data_ptr(), weight._version) for weight in encoder.state_dict().values()]
    key = (patch_px, torch.get_num_threads(), *weights)
    known = _known.setdefault(encoder, {}).get(precision)
    if known is None or known.key != key:
        known = _known[encoder][precision] = _Conversion(key, *_try_to_compile(encoder, patch_px, precision))
    if known.compiled is None and precision == "int8":
        reason = known.reason.rstrip(".")
        msg = f'Encoder {encoder.name!r} cannot be run in 8-bit integers: {reason}. Use precision="auto".'
        raise RuntimeError(msg)
    return known.compiled


def _try_to_compile(encoder: Encoder, patch_px: int, precision: CpuPrecision) -> tuple[_OpenVinoEncoder | None, str]:
    try:
        compiled, how = _compile(encoder, patch_px, precision)
    except Exception as error:  # noqa: BLE001, whatever OpenVINO lacks for an encoder, torch has
        reason = str(error).strip().partition("\n")[0]
        if precision == "32":
            logger.warning("OpenVINO cannot run encoder %r, so that torch does: %s", encoder.name, reason)
        return None, reason
    logger.info("Encoder %r is run by OpenVINO%s.", encoder.name, how)
    return compiled, ""


def _compile(encoder: Encoder, patch_px: int, precision: CpuPrecision) -> tuple[_OpenVinoEncoder, str]:
    """Convert an encoder, and say how it was done.

    Raises
    ------
    ValueError
        If it does not give what torch gives.
    """
    with without_telemetry():
        import openvino
        import openvino.tools.ovc.convert_impl

    shape = (patch_px, patch_px, 3)
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    with evaluating(encoder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(encoder, example, check_trace=False)
        model = openvino.convert_model(traced, example_input=example, input=[(-1, *shape)])
    if precision == "int8":
        model = quantize(model, patch_px, transformer=not encoder.convolutional)
    # Without the hint, processors with units for half precision would compute in it.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = _OpenVinoEncoder(openvino.Core().compile_model(model, "CPU", {**hints, **threads}))
    if precision == "int8":
        images = torch.from_numpy(tissue_patches(patch_px, _N_COMPARED, seed=1))
        explained = compare_features(encoder, compiled(images), images)
        return compiled, f" in 8-bit integers, which keep {explained:.0%} of the variance of its features"
    _compare(encoder, compiled, torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator()))
    return compiled, ""


def _compare(encoder: Encoder, compiled: _OpenVinoEncoder, images: Tensor) -> None:
    with evaluating(encoder):
        expected = encoder(images)
    given = compiled(images)
    if given.shape != expected.shape or not (given - expected).abs().max() <= _TOLERANCE * expected.abs().max():
        msg = "it gives other numbers."
        raise ValueError(msg)
