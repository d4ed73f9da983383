"""Work that background threads do ahead of the thread that needs it."""

from __future__ import annotations

import os
from collections.abc import Generator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

MOST_WORKERS = 8

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for the result any more."""


def n_workers() -> int:
    """Threads that read, or cut, pixels at a time: one a processor that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, usable or 1)


def ahead(items: Generator[T, None, None], depth: int, stop: Event) -> Generator[T, None, None]:
    """Yield `items`, which a thread makes while the caller works: at most `depth` are made, or being made, ahead.

    An error is raised where its item would be taken. When this generator is closed, `stop` is set and the thread ended;
    work that takes long should look at `stop` now and then and raise :class:`Stopped`. Where others set it, so does the
    next item that would have had to be made.
    """
    free = Semaphore(depth)
    # Items travel in boxes that are emptied where they are taken, so that none is kept alive longer than it is used.
    boxes: SimpleQueue[list[T] | BaseException] = SimpleQueue()
    thread = Thread(target=_make, args=(items, free, boxes, stop), name="nh2st-ahead", daemon=True)
    thread.start()
    try:
        while box := _opened(boxes.get()):
            free.release()
            yield box.pop()
    finally:
        stop.set()
        free.release()
        thread.join()


def _opened(box: list[T] | BaseException) -> list[T]:
    if isinstance(box, BaseException):
        raise box
    return box


def _make(
    items: Generator[T, None, None], free: Semaphore, boxes: SimpleQueue[list[T] | BaseException], stop: Event
) -> None:
    try:
        while free.acquire() and not stop.is_set():
            boxes.put([next(items)])
        # Another thread may be waiting for an item that is not made any more.
        boxes.put(Stopped())
    except StopIteration:
        boxes.put([])
    except BaseException as error:  # noqa: BLE001, raised in the thread that waits
        boxes.put(error)
    finally:
        items.close()
