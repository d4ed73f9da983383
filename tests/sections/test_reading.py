"""Images of any size are read within the memory limit, each chunk about once, ahead of whoever needs the patches."""

from __future__ import annotations

import gc
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image
from spatialdata import read_zarr

import nh2st as nh
from nh2st._patches import (
    Pyramid,
    Windows,
    iter_batches,
    make_pyramid,
    patches_key,
    plan_windows,
    read_patches,
    reading_order,
    stack_patches,
)
from nh2st._patches._threads import Stopped, ahead
from nh2st._sections import pyramid_of

RGB = ["r", "g", "b"]


@pytest.fixture(autouse=True)
def limits(tmp_path) -> Iterator[None]:
    """Every test may set the limits."""
    before = nh.settings.memory_limit, nh.settings.cache_limit, nh.settings.cache_dir
    nh.settings.cache_dir = tmp_path / "cache"
    yield
    nh.settings.memory_limit, nh.settings.cache_limit, nh.settings.cache_dir = before


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not own_threads() - before


def own_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("nh2st")}


@contextmanager
def memory_limit(limit: int | str) -> Iterator[None]:
    before = nh.settings.memory_limit
    nh.settings.memory_limit = limit
    try:
        yield
    finally:
        nh.settings.memory_limit = before


def lattice(height: int, width: int, step: float, margin: float = 0) -> np.ndarray:
    """Centres x, y."""
    ys, xs = np.meshgrid(np.arange(margin, height - margin, step), np.arange(margin, width - margin, step))
    return np.column_stack([xs.ravel(), ys.ravel()])


def cut_one_by_one(pixels: np.ndarray, windows: Windows) -> np.ndarray:
    """Each patch from its own slice of an image (y, x, 3) in memory, resized by PIL where need be."""
    px, side = windows.patch_px, windows.side
    margin = 0 if side == px else int(np.ceil(max(1.0, side / px))) + 1
    patches = []
    for y, x in windows.start:
        top, left = int(np.floor(y)) - margin, int(np.floor(x)) - margin
        rows, columns = (np.arange(low, int(np.ceil(at + side)) + margin) for low, at in ((top, y), (left, x)))
        window = np.full((len(rows), len(columns), 3), 255, dtype=np.uint8)
        there = np.ix_((rows >= 0) & (rows < pixels.shape[0]), (columns >= 0) & (columns < pixels.shape[1]))
        window[there] = pixels[rows[there[0].ravel()]][:, columns[there[1].ravel()]]
        if side != px:
            box = (x - left, y - top, x - left + side, y - top + side)
            window = np.asarray(Image.fromarray(window).resize((px, px), Image.Resampling.BILINEAR, box=box))
        patches.append(window)
    return np.stack(patches)


def chunks_of(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Sizes of chunks along an axis: all equal, or not."""
    edges = st.lists(st.integers(1, length - 1), unique=True, max_size=6).map(sorted)
    return edges.map(lambda inner: tuple(np.diff([0, *inner, length]).tolist()))


@st.composite
def readings(draw: st.DrawFn) -> tuple[np.ndarray, Pyramid, Windows, int, int]:
    height, width = draw(st.integers(2, 150)), draw(st.integers(2, 150))
    pixels = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 255, (3, height, width), dtype=np.uint8)
    chunks = ((3,), draw(chunks_of(height)), draw(chunks_of(width)))
    px = draw(st.integers(2, 20))
    side = draw(st.one_of(st.just(float(px)), st.floats(1, 60)))
    place = st.tuples(st.floats(-40, width + 40), st.floats(-40, height + 40))
    centers = np.array(draw(st.lists(place, min_size=1, max_size=30)))
    pyramid = make_pyramid("image", [da.from_array(pixels, chunks=chunks)], RGB)
    return (
        pixels,
        pyramid,
        plan_windows(pyramid, centers, side, px),
        draw(st.integers(1, 12)),
        draw(st.integers(12, 22)),
    )


def smallest_limit(pyramid: Pyramid, windows: Windows, batch_size: int, at_least: int) -> int:
    """First limit that is not refused, of a power of two."""
    with memory_limit(at_least):
        try:
            iter_batches(pyramid, windows, batch_size)
        except ValueError:
            return smallest_limit(pyramid, windows, batch_size, 2 * at_least)
    return at_least


@given(readings())
@examples(max_examples=80, deadline=None, derandomize=True)
def test_patches_are_those_of_one_slice_each(reading):
    pixels, pyramid, windows, batch_size, power = reading
    expected = cut_one_by_one(pixels.transpose(1, 2, 0), windows)
    with memory_limit(smallest_limit(pyramid, windows, batch_size, 2**power)):
        batches = list(iter_batches(pyramid, windows, batch_size))
        order = reading_order(pyramid, windows)
    members = np.concatenate([members for members, _ in batches])
    assert sorted(members) == list(range(len(windows)))
    np.testing.assert_array_equal(members, order)
    assert [len(members) for members, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([patches for _, patches in batches]), expected[members])


def test_images_in_memory():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 90, 2100), dtype=np.uint8)
    pyramid = make_pyramid("image", [pixels], RGB)
    windows = plan_windows(pyramid, lattice(90, 2100, 37), 30.5, 24)
    np.testing.assert_array_equal(read_patches(pyramid, windows), cut_one_by_one(pixels.transpose(1, 2, 0), windows))


def test_no_window():
    pyramid = make_pyramid("image", [np.zeros((3, 20, 20), dtype=np.uint8)], RGB)
    windows = plan_windows(pyramid, np.empty((0, 2)), 8.0, 8)
    assert read_patches(pyramid, windows).shape == (0, 8, 8, 3)
    assert len(reading_order(pyramid, windows)) == 0


def decode(make_counted, shape, side, batch_size):
    """How often each chunk is decoded while patches all over the image are read, and how many chunks there are."""
    image, reads = make_counted(*shape)
    pyramid = make_pyramid("image", [image], RGB)
    windows = plan_windows(pyramid, lattice(*shape[:2], 30), side, 24)
    reads.clear()
    for _ in iter_batches(pyramid, windows, batch_size):
        pass
    return reads, image.npartitions


@pytest.mark.parametrize("side", [24.0, 37.3])
@pytest.mark.parametrize("shape", [(1024, 1024, 64), (1024, 1024, 1024), (100, 5000, 100), (5000, 100, 100)])
def test_each_chunk_is_decoded_once(make_counted, shape, side):
    reads, n_chunks = decode(make_counted, shape, side, 32)
    assert set(reads.values()) == {1}
    assert len(reads) == n_chunks


def test_each_chunk_is_decoded_once_where_few_rows_fit(make_counted):
    nh.settings.memory_limit = "1MB"
    reads, _ = decode(make_counted, (2048, 512, 64), 24, 8)
    assert set(reads.values()) == {1}


def test_images_too_wide_for_the_limit_overlap_in_few_columns(make_counted):
    nh.settings.memory_limit = "1MB"
    reads, n_chunks = decode(make_counted, (512, 4096, 64), 24, 8)
    assert max(reads.values()) == 2
    assert sum(reads.values()) <= 1.2 * n_chunks


def test_chunks_between_pieces_of_tissue_are_not_decoded(make_counted):
    image, reads = make_counted(1024, 1024, 64)
    pyramid = make_pyramid("image", [image], RGB)
    corners = [(100, 100), (900, 100), (100, 900)]
    reads.clear()
    read_patches(pyramid, plan_windows(pyramid, np.array(corners, dtype=float), 20, 20))
    assert reads == Counter({(row, column): 1 for column, row in [(1, 1), (14, 1), (1, 14)]} | {(1, 13): 1, (13, 1): 1})


def made_up(height: int, width: int, chunk: int, dtype: type = np.uint8) -> da.Array:
    """Image that exists nowhere as a whole."""

    def block(block_id: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, sum(block_id) % 251, dtype=dtype)

    chunks = da.core.normalize_chunks((3, chunk, chunk), (3, height, width))
    shapes = np.empty([len(sizes) for sizes in chunks], dtype=object)
    layer = {
        ("made-up", 0, i, j): (block, (0, i, j), (3, chunks[1][i], chunks[2][j]))
        for _, i, j in np.ndindex(shapes.shape)
    }
    return da.Array(layer, "made-up", chunks, dtype=dtype)


@pytest.mark.parametrize(("limit", "dtype"), [("400MB", np.uint8), ("80MB", np.uint8), ("200MB", np.uint16)])
def test_memory_stays_within_the_limit(limit, dtype):
    pyramid = make_pyramid("slide", [made_up(5000, 20_000, 1024, dtype)], RGB)
    windows = plan_windows(pyramid, lattice(5000, 20_000, 400, 200), 112, 112)
    nh.settings.memory_limit = limit
    read = 0
    tracemalloc.start()
    try:
        for members, _ in iter_batches(pyramid, windows, 32):
            read += len(members)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == len(windows)
    assert peak < nh.settings.memory_limit
    # Not by reading little at a time either.
    assert peak > 0.2 * nh.settings.memory_limit


def test_order_does_not_depend_on_the_limit(make_counted):
    image, _ = make_counted(1024, 512, 64)
    pyramid = make_pyramid("image", [image], RGB)
    windows = plan_windows(pyramid, np.random.default_rng(0).uniform(0, 500, (500, 2)), 24, 24)
    orders = []
    for limit in ("1MB", "2MB", "1GB"):
        nh.settings.memory_limit = limit
        orders.append(reading_order(pyramid, windows))
    assert (orders[0] == orders[1]).all()
    assert (orders[0] == orders[2]).all()


def test_pieces_of_the_order_give_the_same_patches(make_counted):
    image, reads = make_counted(600, 700, 64)
    pyramid = make_pyramid("image", [image], RGB)
    windows = plan_windows(pyramid, np.random.default_rng(0).uniform(0, 600, (200, 2)), 37.3, 24)
    whole = read_patches(pyramid, windows)
    reads.clear()
    for piece in np.array_split(reading_order(pyramid, windows), 7):
        np.testing.assert_array_equal(read_patches(pyramid, windows.take(piece)), whole[piece])
    assert sum(reads.values()) < 2.5 * image.npartitions


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_images_on_disk_travel_to_other_processes(make_section, tmp_path, noise):
    make_section(noise, [(50, 50)], scale_factors=[2]).write(tmp_path / "a.zarr")
    pyramid = pyramid_of(read_zarr(tmp_path / "a.zarr"), "image")
    windows = plan_windows(pyramid, lattice(120, 150, 20), 30.5, 24)
    sent = pickle.dumps((pyramid, windows))
    assert len(sent) < 20_000
    np.testing.assert_array_equal(read_patches(*pickle.loads(sent)), read_patches(pyramid, windows))


@pytest.mark.parametrize(
    ("chunk", "limit", "batch_size", "message"),
    [
        (400, "400kB", 2, r"Reading image 'slide', stored in chunks of 400 x 400 px, needs ([^ ,]+), but .* is 400kB"),
        (64, "40kB", 2, r"Reading image 'slide', stored in chunks of 64 x 64 px, needs ([^ ,]+), but .* is 40kB"),
        (64, "1MB", 99, r"Batches of 99 patches of 24 px from image 'slide' need ([^ ,]+), but .* is 1MB"),
    ],
)
def test_limit_that_is_too_small(make_counted, chunk, limit, batch_size, message):
    image, reads = make_counted(400, 400, chunk)
    pyramid = make_pyramid("slide", [image], RGB)
    windows = plan_windows(pyramid, lattice(400, 400, 30), 24, 24)
    nh.settings.memory_limit = limit
    reads.clear()
    with pytest.raises(ValueError, match=message + ".*Raise the limit") as raised:
        iter_batches(pyramid, windows, batch_size)
    assert not reads
    (enough,) = re.match(message, str(raised.value)).groups()
    nh.settings.memory_limit = enough
    assert sum(len(members) for members, _ in iter_batches(pyramid, windows, batch_size)) == len(windows)


def test_large_chunks_are_warned_about(monkeypatch, caplog, make_counted):
    monkeypatch.setattr("nh2st._patches._chunks._LARGE_CHUNK_BYTES", 10_000)
    image, _ = make_counted(128, 128, 128)
    pyramid = make_pyramid("slide", [image], RGB)
    read_patches(pyramid, plan_windows(pyramid, np.array([[60.0, 60]]), 32, 32))
    assert "Image 'slide' is stored in chunks of 128 x 128 px, which are read whole." in caplog.text
    assert "chunks=(3, 1024, 1024)" in caplog.text


def test_chunks_cut_out_of_one_are_warned_about(caplog, make_counted):
    for chunk, warned in ((128, True), (32, False)):
        image, _ = make_counted(128, 128, chunk)
        pyramid = make_pyramid("slide", [image.rechunk((3, 32, 32))], RGB)
        read_patches(pyramid, plan_windows(pyramid, np.array([[60.0, 60]]), 32, 32))
        assert ("chunks of image 'slide' are cut out of larger ones" in caplog.text) is warned
        caplog.clear()


class Broken(RuntimeError):
    pass


def broken(height: int, width: int, chunk: int, row: int) -> da.Array:
    """Image of which one row of chunks cannot be read."""

    def block(part: np.ndarray, block_id: tuple[int, ...] | None = None) -> np.ndarray:
        if block_id is not None and block_id[1] == row:
            msg = "checksum is wrong"
            raise Broken(msg)
        return part

    zeros = da.zeros((3, height, width), dtype=np.uint8, chunks=(3, chunk, chunk))
    return da.map_blocks(block, zeros, dtype=np.uint8, meta=np.empty((0, 0, 0), dtype=np.uint8))


def test_failing_store_is_named_with_its_cause():
    pyramid = make_pyramid("slide", [broken(2048, 512, 64, 20)], RGB)
    windows = plan_windows(pyramid, lattice(2048, 512, 64, 32), 20, 20)
    nh.settings.memory_limit = "2MB"
    read = 0
    with pytest.raises(OSError, match=r"Image 'slide' could not be read \(rows .*\): checksum is wrong") as raised:
        for members, _ in iter_batches(pyramid, windows, 8):
            read += len(members)
    assert isinstance(raised.value.__cause__, Broken)
    # Patches above the damage were handed out.
    assert read > 50


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_threads_end_when_the_caller_fails(error):
    pyramid = make_pyramid("slide", [made_up(4096, 4096, 256)], RGB)
    windows = plan_windows(pyramid, lattice(4096, 4096, 64, 32), 20, 20)

    def work() -> None:
        for _ in iter_batches(pyramid, windows, 8):
            raise error

    with pytest.raises(error):
        work()
    assert not own_threads()


@pytest.mark.skipif(sys.platform == "win32", reason="the signal cannot be sent to another process there")
def test_threads_end_when_the_user_interrupts():
    # In a process of its own: whatever runs the tests must not get the interrupt.
    code = """
import signal, threading, time
import dask.array as da
import numpy as np
from nh2st._patches import iter_batches, plan_windows
from nh2st._patches._pyramid import make_pyramid

def slow(part):
    time.sleep(0.1)
    return part

image = da.zeros((3, 64, 6400), chunks=(3, 64, 64), dtype=np.uint8)
image = da.map_blocks(slow, image, dtype=np.uint8, meta=np.empty((0, 0, 0), dtype=np.uint8))
pyramid = make_pyramid("slide", [image], ["r", "g", "b"])
windows = plan_windows(pyramid, np.column_stack([np.arange(0, 6400, 64), np.zeros(100)]), 20, 20)
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("begun", flush=True)
    for _ in iter_batches(pyramid, windows, 8):
        pass
except KeyboardInterrupt:
    print("interrupted", *(thread.name for thread in threading.enumerate() if thread.name.startswith("nh2st")))
else:
    print("read to the end")
"""
    reading = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reading.stdout is not None
    assert reading.stdout.readline() == "begun\n"
    time.sleep(0.3)
    reading.send_signal(signal.SIGINT)
    printed, errors = reading.communicate(timeout=60)
    assert printed == "interrupted\n", errors


def test_nobody_waits_for_what_is_not_made_any_more():
    stop = threading.Event()
    numbers = ahead((number for number in range(9)), 1, stop)
    assert next(numbers) == 0
    stop.set()
    raised = []

    def take_all():
        try:
            list(numbers)
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=take_all, daemon=True)
    thread.start()
    thread.join(30)
    assert raised


def test_threads_end_promptly_when_batches_are_not_wanted_any_more():
    reads: Counter = Counter()

    def slow(part: np.ndarray, block_id: tuple[int, ...] | None = None) -> np.ndarray:
        time.sleep(0.2)
        reads[(block_id or (0, 0))[1]] += 1
        return part

    image = made_up(3 * 1024, 10 * 1024, 1024)
    image = da.map_blocks(slow, image, dtype=np.uint8, meta=np.empty((0, 0, 0), dtype=np.uint8))
    pyramid = make_pyramid("slide", [image], RGB)
    windows = plan_windows(pyramid, lattice(*image.shape[1:], 256, 128), 20, 20)
    nh.settings.memory_limit = "170MB"
    batches = iter_batches(pyramid, windows, 8)
    next(batches)
    assert own_threads()
    batches.close()
    assert not own_threads()
    # The next row of chunks was begun, and not finished.
    assert reads[0] == 10
    assert reads[1] < 10


def test_nothing_is_held_after_the_end(make_counted):
    image, _ = make_counted(512, 512, 64)
    pyramid = make_pyramid("slide", [image], RGB)
    windows = plan_windows(pyramid, lattice(512, 512, 30), 24, 24)
    held = []
    tracemalloc.start()
    try:
        for _ in range(3):
            batches = iter_batches(pyramid, windows, 8)
            next(batches)
            del batches
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[-1] - held[0] < 100_000


def test_batches_are_made_ahead(make_counted):
    """While the caller works on the first batch, others are cut, but no more than fit."""
    image, reads = make_counted(4096, 256, 64)
    pyramid = make_pyramid("slide", [image], RGB)
    windows = plan_windows(pyramid, lattice(4096, 256, 32, 16), 24, 24)
    nh.settings.memory_limit = "1MB"
    reads.clear()
    batches = iter_batches(pyramid, windows, 8)
    assert not reads
    next(batches)
    for _ in range(100):
        time.sleep(0.01)
        ahead = sum(reads.values())
        if ahead >= 16:
            break
    assert 16 <= ahead < 128
    batches.close()


def test_a_cluster_does_not_read_the_pixels(make_counted):
    """Pixels are read in this process, whatever scheduler is set."""

    def elsewhere(*_: object, **__: object) -> None:
        msg = "sent to a cluster"
        raise AssertionError(msg)

    image, _ = make_counted(128, 128, 64)
    pyramid = make_pyramid("slide", [image], RGB)
    with dask.config.set(scheduler=elsewhere):
        read_patches(pyramid, plan_windows(pyramid, lattice(128, 128, 30), 24, 24))


def test_fingerprint_is_of_the_pixels_alone():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, 2500, 1300), dtype=np.uint8)

    def fingerprint(image: np.ndarray, **options: object) -> str:
        pyramid = make_pyramid("image", [da.from_array(image, **options)], RGB)
        return pyramid.fingerprint(pyramid.levels[0])

    first = fingerprint(pixels, chunks=(3, 512, 512))
    assert first == fingerprint(pixels.copy(), chunks=(3, 512, 512), name="another")
    changed = pixels.copy()
    changed[2, 2499, 1299] += 1
    assert first != fingerprint(changed, chunks=(3, 512, 512))
    assert first != fingerprint(pixels[:, :-1], chunks=(3, 512, 512))


def test_key_changes_with_image_scale_and_spots():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 90, 120), dtype=np.uint8)
    pyramid = make_pyramid("image", [pixels, pixels[:, ::2, ::2]], RGB)
    inverse = make_pyramid("image", [255 - pixels], RGB)
    centers = lattice(90, 120, 30)
    keys = [
        patches_key(pyramid, plan_windows(pyramid, centers, 24, 24)),
        patches_key(pyramid, plan_windows(pyramid, centers, 30, 24)),
        patches_key(pyramid, plan_windows(pyramid, centers, 48, 24)),
        patches_key(pyramid, plan_windows(pyramid, centers, 20, 20)),
        patches_key(pyramid, plan_windows(pyramid, centers[::-1], 24, 24)),
        patches_key(inverse, plan_windows(inverse, centers, 24, 24)),
    ]
    assert len({tuple(key.items()) for key in keys}) == len(keys)
    renamed = make_pyramid("other", [pixels.copy()], RGB)
    assert patches_key(renamed, plan_windows(renamed, centers, 24, 24)) == keys[0]


def test_patches_beyond_the_limit_are_kept_on_disk(make_counted):
    images = [make_counted(640, 640, 64)[0], make_counted(500, 700, 64)[0]]
    pyramids = [make_pyramid("slide", [image], RGB) for image in images]
    windows = [plan_windows(pyramid, lattice(500, 500, 16), 30.5, 24) for pyramid in pyramids]
    in_memory = stack_patches(pyramids, windows)
    assert not isinstance(in_memory, np.memmap)
    nh.settings.memory_limit = "3MB"
    assert in_memory.nbytes > nh.settings.memory_limit
    on_disk = stack_patches(pyramids, windows)
    assert isinstance(on_disk, np.memmap)
    assert not on_disk.flags.writeable
    np.testing.assert_array_equal(on_disk, in_memory)
    assert len(list(nh.settings.cache_dir.glob("arrays/*"))) == 1
    np.testing.assert_array_equal(stack_patches(pyramids, windows), in_memory)
    assert len(list(nh.settings.cache_dir.glob("arrays/*"))) == 1


def test_patches_beyond_both_limits(make_counted):
    image, reads = make_counted(640, 640, 64)
    pyramid = make_pyramid("slide", [image], RGB)
    windows = plan_windows(pyramid, lattice(640, 640, 16), 24, 24)
    nh.settings.memory_limit, nh.settings.cache_limit = "2MB", "1MB"
    reads.clear()
    with pytest.raises(
        ValueError, match=r"take up 2.8MB: more than `nh2st.settings.memory_limit` \(2MB\).*cache_limit"
    ):
        read_patches(pyramid, windows)
    assert not reads
