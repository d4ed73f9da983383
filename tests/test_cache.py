"""Arrays kept on disk: sound or computed anew, bounded, and safe to share between processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nh2st as nh
from nh2st._cache import cached

SHAPE = (10, 6)


@pytest.fixture(autouse=True)
def folder(tmp_path) -> Iterator[Path]:
    before = nh.settings.cache_dir, nh.settings.cache_limit
    nh.settings.cache_dir = tmp_path / "cache"
    yield tmp_path / "cache" / "arrays"
    nh.settings.cache_dir, nh.settings.cache_limit = before


class Computed:
    """Rows of an array, handed out in an order of their own; counts how often they are asked for."""

    def __init__(self, array: np.ndarray, batch: int = 4) -> None:
        self.array, self.batch, self.times = array, batch, 0

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.times += 1
        order = np.random.default_rng(0).permutation(len(self.array))
        for start in range(0, len(order), self.batch):
            members = order[start : start + self.batch]
            yield members, self.array[members]


def numbers(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def get(key: dict, computed: Computed) -> np.ndarray:
    return cached(key, computed, shape=computed.array.shape, dtype=computed.array.dtype)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("shape", [(10,), (10, 6), (7, 3, 3, 2)])
def test_arrays_are_computed_once(folder, shape, dtype):
    computed = Computed(numbers(shape=shape, dtype=dtype))
    for _ in range(3):
        array = get({"image": "abc", "px": 224}, computed)
        assert isinstance(array, np.memmap)
        assert array.dtype == dtype
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, computed.array)
    assert computed.times == 1
    (entry,) = entries(folder)
    assert entry.suffix == ".npy"
    np.testing.assert_array_equal(np.load(entry), computed.array)


def test_every_part_of_the_key_counts(folder):
    keys = [{"image": "a", "px": 1}, {"image": "b", "px": 1}, {"image": "a", "px": 2}, {"image": "a"}, {"px": 1}]
    for number, key in enumerate(keys):
        get(key, Computed(numbers(number)))
    for number, key in enumerate(keys):
        np.testing.assert_array_equal(get(key, Computed(numbers(99))), numbers(number))
    get(keys[0], Computed(numbers(dtype=np.float16)))
    get(keys[0], Computed(numbers(shape=(5, 6))))
    assert len(entries(folder)) == len(keys) + 2
    np.testing.assert_array_equal(get({"px": 1, "image": "a"}, Computed(numbers(99))), numbers(0))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def plant(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Planted()], dtype=object), allow_pickle=True)


class Planted:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(Path(os.environ["PYTEST_PLANTED"])),)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        plant,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_text("<html>Not found</html>"),
        lambda path: np.save(path, numbers(5)),
        lambda path: path.write_bytes(pickle.dumps(numbers(5))),
    ],
)
def test_unsound_files_are_replaced(folder, caplog, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("PYTEST_PLANTED", str(tmp_path / "planted"))
    computed = Computed(numbers())
    get({"image": "a"}, computed)
    (entry,) = entries(folder)
    damage(entry)
    for _ in range(2):
        np.testing.assert_array_equal(get({"image": "a"}, computed), computed.array)
    assert computed.times == 2
    assert f"{entry} of the cache is damaged and is computed anew" in caplog.text
    assert entries(folder) == [entry]
    assert not (tmp_path / "planted").exists()


def test_what_was_not_used_for_longest_goes_first(folder):
    size = numbers().nbytes + 128 + 32
    nh.settings.cache_limit = 3 * size
    for number in range(3):
        get({"number": number}, Computed(numbers(number)))
        time.sleep(0.01)
    get({"number": 0}, Computed(numbers(99)))
    time.sleep(0.01)
    get({"number": 3}, Computed(numbers(3)))
    assert sum(path.stat().st_size for path in entries(folder)) <= nh.settings.cache_limit
    again = {number: Computed(numbers(number)) for number in (0, 2, 3, 1)}
    for number, computed in again.items():
        get({"number": number}, computed)
    assert {number: computed.times for number, computed in again.items()} == {0: 0, 2: 0, 3: 0, 1: 1}


def test_removed_arrays_stay_with_those_who_have_them(folder):
    first = get({"number": 0}, Computed(numbers(0)))
    nh.settings.cache_limit = first.nbytes + 200
    get({"number": 1}, Computed(numbers(1)))
    assert len(entries(folder)) == 1
    np.testing.assert_array_equal(first, numbers(0))


def test_files_that_cannot_be_removed_are_left(folder, monkeypatch):
    """As on Windows, where another process has them open."""
    get({"number": 0}, Computed(numbers(0)))
    nh.settings.cache_limit = numbers().nbytes + 200

    def unlink(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "unlink", unlink)
    np.testing.assert_array_equal(get({"number": 1}, Computed(numbers(1))), numbers(1))
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("limit", [0, 100])
def test_arrays_larger_than_the_limit_are_not_kept(folder, limit):
    nh.settings.cache_limit = limit
    computed = Computed(numbers())
    for times in (1, 2):
        array = get({"image": "a"}, computed)
        np.testing.assert_array_equal(array, computed.array)
        assert not array.flags.writeable
        assert computed.times == times
    assert not folder.exists()


def test_empty_arrays(folder):
    assert get({"image": "a"}, Computed(numbers(shape=(0, 4)))).shape == (0, 4)
    assert not folder.exists()


def no_folder(folder: Path) -> None:
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file")


def read_only(folder: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("permissions of folders do not bind this user")
    folder.mkdir(parents=True)
    folder.chmod(0o500)


@pytest.mark.parametrize("spoil", [no_folder, read_only])
def test_folder_that_cannot_be_written(folder, caplog, spoil):
    spoil(folder)
    computed = Computed(numbers())
    np.testing.assert_array_equal(get({"image": "a"}, computed), computed.array)
    assert f"Nothing can be kept in the cache {folder}" in caplog.text
    assert "`nh2st.settings.cache_dir`" in caplog.text
    assert "damaged" not in caplog.text


def test_disk_without_room(folder, caplog, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    computed = Computed(numbers())
    np.testing.assert_array_equal(get({"image": "a"}, computed), computed.array)
    assert "No space left on device" in caplog.text
    assert not entries(folder)


def test_disk_that_fills_up_while_rows_are_computed(folder, caplog):
    """What was computed is kept, and the rest goes on in memory."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = Computed(numbers(shape=(100, 500)), batch=10)

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, part in enumerate(whole()):
            if number == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
            yield part

    try:
        array = cached({"image": "a"}, rows, shape=whole.array.shape, dtype=np.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    np.testing.assert_array_equal(array, whole.array)
    assert not array.flags.writeable
    assert whole.times == 1
    assert "File too large" in caplog.text
    assert not entries(folder)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_nothing_is_kept_of_what_fails(folder, error):
    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.arange(2), numbers()[:2]
        raise error

    with pytest.raises(error):
        cached({"image": "a"}, rows, shape=SHAPE, dtype=np.float32)
    assert not entries(folder)


def test_what_killed_processes_left_is_removed(folder):
    folder.mkdir(parents=True)
    old, new = folder / "old.tmp", folder / "new.tmp"
    old.write_text("x")
    new.write_text("x")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    get({"image": "a"}, Computed(numbers()))
    assert not old.exists()
    assert new.exists()


def share(folder: Path, limit: int, seed: int, problems: multiprocessing.Queue) -> None:
    """Read, write and evict the same few arrays for a while."""
    logging.getLogger("nh2st").addHandler(_Told(problems))
    nh.settings.cache_dir, nh.settings.cache_limit = folder, limit
    rng = np.random.default_rng(seed)
    held = []
    try:
        for _ in range(150):
            number = int(rng.integers(6))
            array = get({"number": number}, Computed(numbers(number, (40, 50))))
            held = [*held[-5:], (number, array)]
            for earlier, kept in held:
                np.testing.assert_array_equal(kept, numbers(earlier, (40, 50)))
    except BaseException as error:
        problems.put(repr(error))
        raise


class _Told(logging.Handler):
    def __init__(self, problems: multiprocessing.Queue) -> None:
        super().__init__()
        self.problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self.problems.put(record.getMessage())


def test_processes_share_a_folder(folder):
    limit = 3 * 8200
    context = multiprocessing.get_context("spawn")
    problems = context.Queue()
    processes = [context.Process(target=share, args=(folder.parent, limit, seed, problems)) for seed in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert problems.empty()
    assert not list(folder.glob("*.tmp"))
    assert 0 < sum(path.stat().st_size for path in entries(folder)) <= limit
