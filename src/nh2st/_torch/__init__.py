"""What torch lacks and several rooms need: tensors out of files, checksums, orientations of patches, ranks."""

from __future__ import annotations

from nh2st._torch._checksum import add_tensors
from nh2st._torch._evaluating import evaluating
from nh2st._torch._orientation import channel_first, dihedral
from nh2st._torch._ranks import gather_rows, n_ranks, share_of_rows
from nh2st._torch._weights_file import read_tensors

__all__ = [
    "add_tensors",
    "channel_first",
    "dihedral",
    "evaluating",
    "gather_rows",
    "n_ranks",
    "read_tensors",
    "share_of_rows",
]
