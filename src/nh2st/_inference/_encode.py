"""What a frozen encoder gives for every patch of sections, kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._cache import Key, Rows, cached, find_cached
from nh2st._device import InferencePrecision, Precision
from nh2st._inference._job import Job
from nh2st._inference._run_job import run
from nh2st._patches import Windows, patches_key
from nh2st._settings import logger, settings
from nh2st._torch import add_tensors, channel_first, dihedral
from nh2st.nn import NH2ST, Encoder

if TYPE_CHECKING:
    from nh2st._sections import Section

_LARGEST = float(np.finfo(np.float16).max)


def encode_sections(
    job: Job,
    identity: Key,
    shape: tuple[int, ...],
    sections: Sequence[Section],
    windows: Sequence[Windows],
    description: str,
    client: Any = None,
    *,
    keep: bool = True,
) -> list[np.ndarray]:
    """Arrays (n, *shape) of each section: from the cache, or computed by the job and kept there when they are done.

    Without `keep` they are computed and not kept.

    Parameters
    ----------
    job
        Its module gives a single tensor (k, width) of half precision, the flattened values of each patch.
    identity
        What tells the module from others: name, checksum of the weights.
    """
    shapes = [(len(window), *shape) for window in windows]
    keys = [_key(one, window, identity) if keep else None for one, window in zip(sections, windows, strict=True)]
    found = {}
    for number, (key, size) in enumerate(zip(keys, shapes, strict=True)):
        if key is not None and (array := find_cached(key, shape=size, dtype=np.float16)) is not None:
            found[number] = array
    if found:
        logger.info("The %s of %d sections are in the cache.", description, len(found))
    missing = [number for number in range(len(sections)) if number not in found]
    computed = run(job, [sections[n] for n in missing], [windows[n] for n in missing], description, client)
    with closing(computed):
        for position, (values,) in computed:
            number = missing[position]
            found[number] = _keep(keys[number], values.reshape(shapes[number]))
    return [found[number] for number in range(len(sections))]


def _key(section: Section, windows: Windows, identity: Key) -> Key | None:
    """Key in the cache; none where nothing is kept, as all pixels are read for it."""
    return {**patches_key(section.image, windows), **identity} if settings.cache_limit > 0 else None


def _keep(key: Key | None, values: np.ndarray) -> np.ndarray:
    def rows() -> Rows:
        yield np.arange(len(values)), values

    return values if key is None else cached(key, rows, shape=values.shape, dtype=values.dtype)


def features_of(
    encoder: Encoder,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    *,
    weights: str,
    batch_size: int,
    device: str | torch.device,
    precision: InferencePrecision,
    client: Any = None,
    orientations: int = 1,
    keep: bool = True,
) -> list[np.ndarray]:
    """Pooled features (n, n_features) of each section's patches in half precision; `weights` is the checksum.

    With 8 `orientations` they are means over the flips and quarter turns of a patch. With `keep` they are looked for
    and kept in the cache, for which all pixels of the images are read.
    """
    output = "features" if orientations == 1 else f"features of {orientations} orientations"
    identity = {"encoder": encoder.name, "weights": weights, "precision": precision, "output": output}
    module = encoder if orientations == 1 else _Oriented(encoder)
    job = Job(_Halved(module, "features"), batch_size, device, precision)
    return encode_sections(job, identity, (encoder.n_features,), sections, windows, "features", client, keep=keep)


def maps_of(
    network: NH2ST,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    *,
    batch_size: int,
    device: str | torch.device,
    precision: Precision,
) -> list[np.ndarray]:
    """Feature maps (n, C, h, w) of each section's patches in half precision, as the network takes them."""
    identity = {
        "encoder": network.encoder.name,
        "weights": checksum(network.encoder),
        "precision": precision,
        "output": f"maps {network.config.map_px}",
    }
    job = Job(_Halved(network, "maps"), batch_size, device, precision)
    return encode_sections(job, identity, network.map_shape, sections, windows, "feature maps")


class _Oriented(nn.Module):
    """Features that do not depend on how a patch is turned."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def features(self, images: Tensor) -> Tensor:
        turned = list(dihedral(channel_first(images)))
        return torch.stack([self.encoder.features(one.contiguous()).float() for one in turned]).mean(dim=0)


class _Halved(nn.Module):
    """A method of a module, with its values flattened and in half precision."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (_half(getattr(self.module, self.method)(images)),)


def checksum(module: nn.Module) -> str:
    """Checksum of all weights and statistics of a module."""
    digest = sha256()
    add_tensors(digest, module.state_dict())
    return digest.hexdigest()


def _half(values: Tensor) -> Tensor:
    """Flattened values in half precision; rare outliers beyond its range, which would spoil every sum, are clipped."""
    return values.flatten(1).float().clamp(-_LARGEST, _LARGEST).half()
