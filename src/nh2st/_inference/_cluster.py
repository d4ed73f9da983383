"""A job on the workers of a dask cluster, in pieces that are done again where a worker is lost."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import numpy as np

from nh2st._inference._job import Job, SectionPatches
from nh2st._inference._local import compute_rows
from nh2st._inference._row_collector import RowCollector
from nh2st._patches import Pyramid, reading_order
from nh2st._settings import format_bytes, settings

Piece: TypeAlias = tuple[int, np.ndarray]
"""Position of an image, and some of its patches."""

_BATCHES_PER_PIECE = 16
_PIECES_PER_THREAD = 4
_RETRIES = 3
_LARGEST_IMAGE_BYTES = 16 * 2**20


def run_on_cluster(
    client: Any, job: Job, images: Sequence[SectionPatches], advance: Callable[[int], object]
) -> Generator[tuple[int, tuple[np.ndarray, ...]], None, None]:
    """Position and rows of each image when it is done, the same rows as in one process.

    Raises
    ------
    RuntimeError
        If pieces of the work fail again and again, or the cluster is gone.
    ValueError
        If an image lies in memory and is too large to be sent.
    OSError
        If a worker cannot read an image.
    """
    from dask.distributed import KilledWorker

    _check_sizes(images)
    name = f"nh2st-{uuid.uuid4()}"
    rows = [RowCollector(len(windows), job.order) for _, _, windows in images]
    futures: dict[Any, Piece] = {}
    try:
        client.register_plugin(_carrier(job.portable(), images), name=name)
        for number, members in _pieces(images, job.batch_size, sum(client.nthreads().values())):
            future = client.submit(
                _run_piece, name, number, members, settings.memory_limit, pure=False, retries=_RETRIES
            )
            futures[future] = number, members
        yield from _gathered(client, futures, rows, advance)
    except KilledWorker as error:
        msg = (
            f"A piece of the work was given up after the workers that had it died ({error}). Too little memory is the "
            "usual reason: give workers more, or lower `batch_size=` or `nh2st.settings.memory_limit`."
        )
        raise RuntimeError(msg) from error
    finally:
        _give_up(client, list(futures), name)


def _gathered(
    client: Any, futures: dict[Any, Piece], rows: Sequence[RowCollector], advance: Callable[[int], object]
) -> Generator[tuple[int, tuple[np.ndarray, ...]], None, None]:
    """Position and rows of each image whose last piece has come; pieces that have are taken out of `futures`."""
    from dask.distributed import as_completed

    for future, parts in as_completed(futures, loop=client.loop, with_results=True):
        if future.cancelled():
            msg = "The cluster was closed, or the connection to it lost, before the work was done."
            raise RuntimeError(msg)
        number, members = futures.pop(future)
        future.release()
        rows[number].put(members, parts)
        advance(len(members))
        if rows[number].full:
            yield number, rows[number].arrays


def _give_up(client: Any, futures: list[Any], plugin: str) -> None:
    """Cancel what is not done, and let workers forget job and images."""
    if client.status == "running":
        client.cancel(futures, force=True)
        # Workers that are just going need not be told.
        with suppress(OSError, KeyError, ValueError):
            client.unregister_worker_plugin(plugin)


def check_workers(client: Any) -> None:
    """Make sure that all workers have this version of the package.

    Raises
    ------
    TypeError
        If it is no client, or an asynchronous one.
    RuntimeError
        If there are no workers, or one lacks the package or has another version.
    """
    from dask.distributed import Client

    if not isinstance(client, Client) or client.asynchronous:
        kind = "an asynchronous one" if isinstance(client, Client) else type(client).__name__
        msg = f"client= must be a dask.distributed.Client, such as `Client(cluster)`, not {kind}."
        raise TypeError(msg)
    ours = version("nh2st")
    if not client.nthreads():
        msg = "The cluster has no workers yet. Start some (`client.wait_for_workers(1)` waits for them)."
        raise RuntimeError(msg)
    try:
        # A function of the standard library, as one of ours could not be unpickled where the package is missing.
        theirs = client.run(version, "nh2st")
    except PackageNotFoundError as error:
        msg = f"A worker of the cluster has no nh2st. Install version {ours} in the workers' environment."
        raise RuntimeError(msg) from error
    if others := {worker: found for worker, found in theirs.items() if found != ours}:
        worker, found = next(iter(others.items()))
        msg = f"Worker {worker} has nh2st {found}, this process {ours}. Install the same version on both."
        raise RuntimeError(msg)


def _check_sizes(images: Sequence[SectionPatches]) -> None:
    for section, pyramid, _ in images:
        if _is_large(pyramid):
            msg = (
                f"Image {pyramid.name!r} of section {section!r} lies in memory (more than "
                f"{format_bytes(_LARGEST_IMAGE_BYTES)}), but workers are to read it themselves. Write the object where "
                "they see it (`sdata.write(path)`), and use `spatialdata.read_zarr(path)`."
            )
            raise ValueError(msg)


class _TooLarge(Exception):
    """The image takes up more bytes than may be sent."""


class _Meter:
    """A file that is not kept, and not written to beyond the largest size."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, part: Any) -> None:
        self.size += memoryview(part).nbytes
        if self.size > _LARGEST_IMAGE_BYTES:
            raise _TooLarge


def _is_large(pyramid: Pyramid) -> bool:
    """Whether an image is too large to be sent; it is not copied for that."""
    import cloudpickle

    try:
        cloudpickle.dump(pyramid, _Meter())
    except _TooLarge:
        return True
    return False


def _pieces(images: Sequence[SectionPatches], batch_size: int, n_threads: int) -> Iterator[Piece]:
    """Some whole batches of an image, in reading order, so that each batch is the one that one process would have."""
    n_batches = sum(-(-len(windows) // batch_size) for _, _, windows in images)
    size = batch_size * min(_BATCHES_PER_PIECE, max(1, n_batches // (_PIECES_PER_THREAD * max(1, n_threads))))
    for number, (_, pyramid, windows) in enumerate(images):
        order = reading_order(pyramid, windows)
        for start in range(0, len(order), size):
            yield number, order[start : start + size]


def _carrier(job: Job, images: Sequence[SectionPatches]) -> Any:
    """Plugin that brings job and images once to every worker, also to those that join later."""
    from dask.distributed import WorkerPlugin

    class Carrier(WorkerPlugin):
        def __init__(self, job: Job, images: Sequence[SectionPatches]) -> None:
            self.job, self.images = job, images

    return Carrier(job, images)


def _run_piece(name: str, number: int, members: np.ndarray, memory_limit: int) -> list[np.ndarray]:
    """Rows of some patches of an image, in this order; runs on a worker."""
    from dask.distributed import get_worker

    carrier: Any = get_worker().plugins[name]
    section, pyramid, windows = carrier.images[number]
    settings.memory_limit = memory_limit
    try:
        carrier.job.prepare()
        return list(compute_rows(carrier.job, section, pyramid, windows.take(members)))
    except (OSError, RuntimeError) as error:
        failure = OSError(str(error)) if isinstance(error, OSError) else RuntimeError(str(error))
    # Not within the handler: errors are sent with their causes, and some of zarr's cannot be unpickled.
    raise failure
