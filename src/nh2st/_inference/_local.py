"""A job in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from nh2st._inference._job import Job, SectionPatches
from nh2st._inference._row_collector import RowCollector
from nh2st._patches import Pyramid, Windows, iter_batches


def run_here(
    job: Job, images: Sequence[SectionPatches], advance: Callable[[int], object]
) -> Generator[tuple[int, tuple[np.ndarray, ...]], None, None]:
    """Position and rows of each image, one after another; `advance` is told how many patches are done."""
    job.prepare()
    for number, image in enumerate(images):
        yield number, compute_rows(job, *image, advance)


def compute_rows(
    job: Job, section: str, pyramid: Pyramid, windows: Windows, advance: Callable[[int], object] | None = None
) -> tuple[np.ndarray, ...]:
    """Rows of the patches of one image, by a job that was prepared."""
    rows = RowCollector(len(windows), job.order)
    for members, parts in _launched(job, section, pyramid, windows):
        rows.put(members, [part.cpu().numpy() for part in parts])
        if advance is not None:
            advance(len(members))
    return rows.arrays


def _launched(
    job: Job, section: str, pyramid: Pyramid, windows: Windows
) -> Iterator[tuple[np.ndarray, tuple[Tensor, ...]]]:
    """Batches with their rows on the device; a batch is launched before the rows of the one before are fetched."""
    before = None
    try:
        with closing(iter_batches(pyramid, windows, job.batch_size)) as batches:
            for members, patches in batches:
                launched = members, job.compute(patches)
                if before is not None:
                    yield before
                before = launched
    except OSError as error:
        msg = f"Section {section!r}: {error}"
        raise OSError(msg) from error
    if before is not None:
        yield before
