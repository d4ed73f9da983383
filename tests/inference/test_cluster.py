from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from threading import Thread
from typing import Any

import cloudpickle
import numpy as np
import pytest
from dask.distributed import Client, LocalCluster
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

import nh2st as nh

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

N_WORKERS = 2
SECTIONS = ("A", "B", "C")
BATCH = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=N_WORKERS,
        threads_per_worker=1,
        dashboard_address=":0",
        local_directory=tmp_path_factory.mktemp("workers"),
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(N_WORKERS)
        yield client
        assert client.run_on_scheduler(plugins_of_scheduler) == []
        assert not any(client.run(plugins_of_worker).values())
        deadline = time.monotonic() + 10
        while client.run_on_scheduler(n_tasks) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.run_on_scheduler(n_tasks) == 0


def plugins_of_scheduler(dask_scheduler: Any) -> list[str]:
    return [name for name in dask_scheduler.worker_plugins if name.startswith("nh2st")]


def plugins_of_worker(dask_worker: Any) -> list[str]:
    return [name for name in dask_worker.plugins if name.startswith("nh2st")]


def n_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


@pytest.fixture
def store(make_sdata, tmp_path) -> Path:
    path = tmp_path / "sections.zarr"
    make_sdata(SECTIONS, side=8, scale_factors=(2,)).write(path)
    return path


@pytest.fixture
def sdata(store) -> SpatialData:
    return read_zarr(store)


def results(sdata: SpatialData) -> dict[str, np.ndarray]:
    return dict(sdata["table"].layers)


@contextmanager
def hooked(model: nh.models.Model, hook: Any) -> Iterator[None]:
    """Call a function before every encoding of a batch, wherever that is."""
    handle = model.network.encoder.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def mark(folder: Path, *_: Any) -> None:
    """Leave a file that bears the process's number."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()


def marks(folder: Path) -> Counter[int]:
    return Counter(int(path.name.split("-")[0]) for path in folder.iterdir())


class MarksLoading:
    """Leaves a file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)
        mark(self.folder)


def test_results_are_those_of_one_process(sdata, model, client):
    table = sdata["table"]
    table.obs["used"] = np.arange(table.n_obs) % 5 != 0
    nh.tl.predict(sdata, model, batch_size=BATCH, spots="used")
    here = results(sdata)
    assert set(here) == {"nh2st", "nh2st_ridge"}
    nh.tl.predict(sdata, model, batch_size=BATCH, spots="used", client=client, key_added="cluster")
    for name in here:
        np.testing.assert_array_equal(table.layers[name.replace("nh2st", "cluster")], here[name])
    assert table.uns["nh2st"]["cluster"] == table.uns["nh2st"]["nh2st"]


def test_results_of_the_context_network_are_those_of_one_process(sdata, context_model, client, tmp_path):
    table = sdata["table"]
    table.obs["used"] = np.arange(table.n_obs) % 5 != 0
    nh.tl.predict(sdata, context_model, batch_size=BATCH, spots="used")
    here = results(sdata)
    assert set(here) == {"nh2st", "nh2st_std", "nh2st_ridge"}
    encoded = tmp_path / "encoded"
    encoded.mkdir()
    with hooked(context_model, functools.partial(mark, encoded)):
        nh.tl.predict(sdata, context_model, batch_size=BATCH, spots="used", client=client, key_added="cluster")
    assert set(marks(encoded)) == set(client.run(os.getpid).values())
    for name in here:
        np.testing.assert_array_equal(table.layers[name.replace("nh2st", "cluster")], here[name])


def test_several_objects_and_an_image_in_memory(sdata, make_sdata, model, client):
    other = make_sdata(("X",), side=3, seed=1)
    nh.tl.predict([sdata, other], model, batch_size=BATCH)
    here = [results(sections)["nh2st"] for sections in (sdata, other)]
    nh.tl.predict([sdata, other], model, batch_size=BATCH, client=client)
    for sections, expected in zip((sdata, other), here, strict=True):
        np.testing.assert_array_equal(results(sections)["nh2st"], expected)


def test_embeddings_are_those_of_one_process(sdata, client, monkeypatch, tmp_path):
    settings = {"encoder": "test_resnet", "encoder_weights": None, "patch_um": 32, "patch_px": 32, "batch_size": BATCH}
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path / "cache")
    import torch

    for name, place in (("here", None), ("there", client)):
        monkeypatch.setattr(nh.settings, "cache_limit", 0 if name == "there" else 10**9)
        torch.manual_seed(0)
        nh.pp.embed(sdata, key_added=name, client=place, **settings)
    np.testing.assert_array_equal(sdata["table"].obsm["there"], sdata["table"].obsm["here"])
    assert np.isfinite(sdata["table"].obsm["there"]).all()


def test_the_model_is_loaded_once_a_worker(sdata, model, client, tmp_path):
    loaded, encoded = tmp_path / "loaded", tmp_path / "encoded"
    loaded.mkdir()
    encoded.mkdir()
    model.network.marker = MarksLoading(loaded)
    with hooked(model, functools.partial(mark, encoded)):
        nh.tl.predict(sdata, model, batch_size=BATCH, client=client, baselines=False)
    workers = set(client.run(os.getpid).values())
    assert marks(loaded) == dict.fromkeys(workers, 1)
    assert set(marks(encoded)) == workers
    assert marks(encoded).total() == len(SECTIONS) * 8 * 8 / BATCH


def wait_for_third(folder: Path, *_: Any) -> None:
    """Let no process go on before three have begun to work."""
    mark(folder)
    deadline = time.monotonic() + 40
    while len(marks(folder)) < N_WORKERS + 1 and time.monotonic() < deadline:
        time.sleep(0.05)


def kill_one(folder: Path, workers: list[int]) -> None:
    """Kill a worker once all are at work."""
    while set(marks(folder)) < set(workers):
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)


def test_a_worker_dies_and_another_joins(sdata, model, client, tmp_path):
    nh.tl.predict(sdata, model, batch_size=BATCH)
    here = results(sdata)
    folder = tmp_path / "marks"
    folder.mkdir()
    workers = list(client.run(os.getpid).values())
    killer = Thread(target=kill_one, args=(folder, workers), daemon=True)
    killer.start()
    with hooked(model, functools.partial(wait_for_third, folder)):
        nh.tl.predict(sdata, model, batch_size=BATCH, client=client)
    killer.join()
    for name, expected in here.items():
        np.testing.assert_array_equal(results(sdata)[name], expected)
    # The one that took the dead one's place, and got the model when it joined.
    (joined,) = set(marks(folder)) - set(workers)
    assert workers[0] not in client.run(os.getpid).values()
    assert joined in client.run(os.getpid).values()


def version_here(process: int, ours: str, theirs: str | None, name: str) -> str:
    """Stands in for another version of the package on the workers, or for none."""
    if os.getpid() == process:
        return ours
    if theirs is None:
        raise PackageNotFoundError(name)
    return theirs


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("0.0.1", r"Worker tcp.* has nh2st 0\.0\.1, this process 3\.0\. Install the same version"),
        (None, r"has no nh2st\. Install version 3\.0"),
    ],
)
@pytest.mark.parametrize("function", ["predict", "embed"])
def test_workers_with_another_version_or_none(sdata, model, client, monkeypatch, theirs, message, function):
    stub = functools.partial(version_here, os.getpid(), "3.0", theirs)
    monkeypatch.setattr("nh2st._inference._cluster.version", stub)
    with pytest.raises(RuntimeError, match=message):
        if function == "predict":
            nh.tl.predict(sdata, model, client=client)
        else:
            nh.pp.embed(sdata, client=client)
    assert not sdata["table"].layers
    assert list(sdata["table"].obsm) == ["spatial"]


def test_a_cluster_without_workers(sdata, model):
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster, Client(cluster, set_as_default=False) as client:
        with pytest.raises(RuntimeError, match=r"no workers yet.*wait_for_workers"):
            nh.tl.predict(sdata, model, client=client)


def test_a_cluster_is_no_client(sdata, model, cluster):
    with pytest.raises(TypeError, match=r"dask\.distributed\.Client.*not LocalCluster"):
        nh.tl.predict(sdata, model, client=cluster)


def test_a_large_image_in_memory(make_sdata, model, client):
    sdata = make_sdata(("A",))
    large = np.full((3, 2400, 2400), 200, dtype=np.uint8)
    del sdata["A_image"]
    sdata["A_image"] = Image2DModel.parse(large, transformations={"A": Identity()})
    with pytest.raises(ValueError, match=r"'A_image' of section 'A' lies in memory.*sdata\.write.*read_zarr"):
        nh.tl.predict(sdata, model, client=client)
    assert not sdata["table"].layers


def spoil(image: Path) -> None:
    """Overwrite all chunks with what no decoder takes."""
    for chunk in (image / "s0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")


@pytest.mark.parametrize("place", ["here", "cluster"])
@pytest.mark.parametrize("failure", [spoil, shutil.rmtree], ids=["damaged", "gone"])
def test_a_store_that_fails_in_mid_read(sdata, store, model, client, place, failure):
    """The image of the first section is read, that of the second is not."""
    failure(store / "images" / "B_image")
    before = sdata["table"].copy()
    with pytest.raises(OSError, match=r"Section 'B'.*Image 'B_image' could not be read"):
        nh.tl.predict(sdata, model, batch_size=BATCH, client=client if place == "cluster" else None)
    table = sdata["table"]
    assert not table.layers
    assert table.uns.keys() == before.uns.keys()
    assert table.var.equals(before.var)


def closing(folder: Path, *_: Any) -> None:
    mark(folder)
    time.sleep(0.2)


def test_a_cluster_that_is_closed(sdata, model, tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        client = Client(cluster, set_as_default=False)

        def close() -> None:
            while not marks(folder):
                time.sleep(0.02)
            client.close()

        closer = Thread(target=close, daemon=True)
        closer.start()
        with hooked(model, functools.partial(closing, folder)):
            with pytest.raises(RuntimeError, match="cluster was closed, or the connection to it lost"):
                nh.tl.predict(sdata, model, batch_size=BATCH, client=client)
        closer.join()
    assert not sdata["table"].layers
