"""Checksums of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Feed names and values of tensors to a hash of ``hashlib``, in the order of their names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
