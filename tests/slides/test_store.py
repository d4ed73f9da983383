from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from spatialdata import SpatialData, read_zarr

from nh2st._slides import check_target, write_store


@pytest.fixture
def store(tmp_path, make_sdata) -> Path:
    """An earlier store with the section A."""
    write_store(make_sdata(("A",)), tmp_path / "out.zarr")
    return tmp_path / "out.zarr"


def test_the_store_replaces_an_earlier_one_and_leaves_nothing_else(store, make_sdata):
    write_store(make_sdata(("B",)), store)
    assert list(store.parent.iterdir()) == [store]
    assert "B" in read_zarr(store).shapes
    assert "A" not in read_zarr(store).shapes


def test_scales_and_chunks_are_kept(tmp_path, make_sdata):
    sdata = make_sdata(("A",), scale_factors=(2, 2))
    write_store(sdata, tmp_path / "out.zarr")
    before, after = sdata.images["A_image"], read_zarr(tmp_path / "out.zarr").images["A_image"]
    assert list(after.children) == list(before.children)
    for scale in before.children:
        np.testing.assert_array_equal(after[scale]["image"], before[scale]["image"])


def test_a_failure_leaves_the_earlier_store(store, make_sdata, monkeypatch):
    def fail(self: SpatialData, path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("written")
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(SpatialData, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        write_store(make_sdata(("B",)), store)
    assert list(store.parent.iterdir()) == [store]
    assert "A" in read_zarr(store).shapes


def test_what_appears_while_the_result_is_written_stays(tmp_path, make_sdata):
    target = tmp_path / "out.zarr"
    check = partial(check_target, target, tmp_path / "slide.svs", overwrite=False)

    def late() -> None:
        target.mkdir()
        (target / "thesis.txt").write_text("precious")
        check()

    with pytest.raises(FileExistsError, match=r"it is not replaced.* What was computed is in ") as caught:
        write_store(make_sdata(("A",)), target, late)
    assert (target / "thesis.txt").read_text() == "precious"
    (kept,) = set(tmp_path.iterdir()) - {target}
    assert str(kept) in str(caught.value)
    assert "A" in read_zarr(kept).shapes


def test_an_interruption_between_old_and_new_loses_neither(store, make_sdata, monkeypatch):
    rename, taken = Path.rename, []

    def interrupted(self: Path, other: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        taken.append(self)
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_store(make_sdata(("B",)), store)
    assert len(taken) == 2
    assert list(store.parent.iterdir()) == [store]
    assert "A" in read_zarr(store).shapes


def test_targets_that_would_destroy_something_are_refused(store):
    folder = store.parent
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    (folder / "slide.svs").write_text("slide")
    source = folder / "slide.svs"
    with pytest.raises(FileExistsError, match=r"out\.zarr exists already.*--overwrite"):
        check_target(store, source, overwrite=False)
    check_target(store, source, overwrite=True)
    for name in ("notes", "slide.svs.txt"):
        (folder / "slide.svs.txt").write_text("a file")
        with pytest.raises(FileExistsError, match="is no zarr store; it is not replaced"):
            check_target(folder / name, source, overwrite=True)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        check_target(folder / "nowhere" / "out.zarr", source, overwrite=False)


@pytest.mark.parametrize("target", ["out.zarr", "out.zarr/images", ".", "notes/../out.zarr"])
def test_the_slide_itself_is_never_the_target(store, target):
    (store.parent / "notes").mkdir()
    with pytest.raises(ValueError, match="overlap"):
        check_target(store.parent / target, store, overwrite=True)
