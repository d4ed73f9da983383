"""Runs a job over all patches of sections, and collects the rows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nh2st._device import InferencePrecision, check_precision
from nh2st._inference._cluster import check_workers, run_on_cluster
from nh2st._inference._job import Job, computed_in
from nh2st._inference._local import run_here
from nh2st._inference._openvino import pays_off
from nh2st._patches import Windows
from nh2st._settings import progress

if TYPE_CHECKING:
    from nh2st._sections import Section


def check_place(device: str, precision: InferencePrecision, client: Any) -> InferencePrecision:
    """Make sure, before any work, that it can be done where it is to be done.

    Returns
    -------
    The precision that is computed in, which is `"auto"` where workers of a cluster differ.

    Raises
    ------
    ValueError, TypeError
        If device or precision are unknown or do not go together, or `client` is no client.
    ImportError
        If packages for 8-bit integers are missing.
    RuntimeError
        If this process lacks the device, or a worker of the cluster anything of this, or this version of the package.
    """
    check_precision(precision, InferencePrecision)
    if client is None:
        return computed_in(device, precision)
    check_workers(client)
    try:
        found = set(client.run(computed_in, device, precision).values())
    except (ImportError, RuntimeError, ValueError) as error:
        msg = f"A worker of the cluster cannot do this: {error}"
        raise RuntimeError(msg) from error
    return found.pop() if len(found) == 1 else "auto"


def run(
    job: Job, sections: Sequence[Section], windows: Sequence[Windows], description: str, client: Any = None
) -> Generator[tuple[int, tuple[np.ndarray, ...]], None, None]:
    """Rows of every section's patches, in the order of its spots; sections are yielded when they are done.

    Parameters
    ----------
    job
        What is computed.
    sections, windows
        Sections and the windows of their patches.
    description
        What the progress bar says.
    client
        A ``dask.distributed.Client``, whose workers share the work; this process where absent.

    Yields
    ------
    Position of a section, and one array (n, width) for each output of the module.

    Raises
    ------
    OSError
        If an image cannot be read; section and image are named.
    RuntimeError
        If a GPU is out of memory, or the cluster cannot do the work.
    """
    if not sections:
        return
    if job.precision == "int8" or pays_off(windows):
        job = replace(job, openvino_px=windows[0].patch_px)
    images = [(section.name, section.image, window) for section, window in zip(sections, windows, strict=True)]
    with progress(None, description, total=sum(map(len, windows))) as bar:
        done = run_here(job, images, bar.update) if client is None else run_on_cluster(client, job, images, bar.update)
        with closing(done):
            yield from done
