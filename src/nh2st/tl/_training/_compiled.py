"""Compilation of the network that does without it where it fails."""

from __future__ import annotations

from typing import Any

import torch

from nh2st._settings import logger
from nh2st.nn import NeighborBatch


class Compiled:
    """A network's forward pass, compiled by torch; where that fails, as it was, after a warning.

    A function is compiled, since the module that torch makes of a module would be saved under other names.
    """

    def __init__(self, forward: Any) -> None:
        self._plain = forward
        self._compiled: Any = None
        self._failed = False

    def __call__(self, batch: NeighborBatch) -> Any:
        if self._failed:
            return self._plain(batch)
        try:
            # Here, since what cannot compile on a platform at all may say so at once.
            self._compiled = self._compiled or torch.compile(self._plain)
            return self._compiled(batch)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed = True
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                "torch.compile failed, so training goes on without it; `compile=False` is the same: %s", reason
            )
            return self._plain(batch)
