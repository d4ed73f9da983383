from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import nh2st as nh
from nh2st.datasets import _section_files


@dataclass
class Server:
    """What a local web server answers, by path, and what was asked of it."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path in state.cut else content)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.delenv("NH2ST_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(_section_files, "BASE_URL", f"http://127.0.0.1:{httpd.server_port}")
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def published(server: Server, her2st_repository: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server has section Q1, and the registry knows its files."""
    paths = {
        "counts": "data/ST-cnts/Q1.tsv.gz",
        "image": "data/ST-imgs/Q/Q1/HE_BT_1.jpg",
        "spots": "data/ST-spotfiles/Q1_selection.tsv",
    }
    registry = {}
    for kind, path in paths.items():
        content = (her2st_repository / path).read_bytes()
        server.files[f"/owner/her2st/abc/{path}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        registry[kind] = _section_files.RemoteFile(
            "her2st", "Q1", kind, "owner/her2st", "abc", path, sha256, str(len(content))
        )
    monkeypatch.setattr(_section_files, "registry", lambda _: {"Q1": registry})
    return server


def cached() -> list[Path]:
    return [path for path in nh.settings.cache_dir.rglob("*") if path.is_file()]


def test_files_are_downloaded_once(published: Server):
    assert nh.datasets.her2st("Q1")["table"].n_obs == 3
    assert len(published.asked) == 3
    assert len(cached()) == 3
    nh.datasets.her2st("Q1")
    assert len(published.asked) == 3


def test_the_cache_has_the_repositorys_layout(published: Server):
    nh.datasets.her2st("Q1")
    assert nh.datasets.her2st("Q1", path=nh.settings.cache_dir)["table"].n_obs == 3


def test_damaged_file_in_the_cache_is_downloaded_again(published: Server):
    nh.datasets.her2st("Q1")
    file = next(path for path in cached() if path.suffix == ".gz")
    good = file.read_bytes()
    file.write_bytes(good[:10])
    nh.datasets.her2st("Q1")
    assert file.read_bytes() == good


def _missing(server: Server, path: str) -> None:
    del server.files[path]


def _changed(server: Server, path: str) -> None:
    server.files[path] = b"something else"


def _cut(server: Server, path: str) -> None:
    server.cut.add(path)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_missing, ConnectionError, "404"),
        (_changed, ValueError, "damaged"),
        (_cut, (ConnectionError, ValueError), "download"),
    ],
)
def test_bad_download_is_said_and_leaves_nothing(
    published: Server, spoil: Callable[[Server, str], None], error: type[Exception], words: str
):
    path = "/owner/her2st/abc/data/ST-spotfiles/Q1_selection.tsv"
    sha256 = hashlib.sha256(published.files[path]).hexdigest()
    spoil(published, path)
    with pytest.raises(error, match=words) as caught:
        nh.datasets.her2st("Q1")
    target = nh.settings.cache_dir / "her2st/data/ST-spotfiles/Q1_selection.tsv"
    for part in (path, sha256, str(target), "by hand"):
        assert part in str(caught.value)
    assert not target.exists()
    assert len(cached()) == 2


def test_offline(published: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_section_files, "BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"Could not download http://127.0.0.1:9/.*put .* \(sha256 .*\) at "):
        nh.datasets.her2st("Q1")
    assert cached() == []


def test_unknown_section_is_refused_before_any_download(server: Server):
    with pytest.raises(ValueError, match=r"no section 'Z9', 'A1' to download; available: B4, C2, C3, C4, C5, C6\."):
        nh.datasets.her2st(["B4", "Z9", "A1"])
    with pytest.raises(ValueError, match="available: MOB1, MOB2, MOB3, MOB4"):
        nh.datasets.mouse_olfactory_bulb("MOB12")
    assert server.asked == []


@pytest.mark.parametrize(("dataset", "section"), [("her2st", "C3"), ("mouse_olfactory_bulb", "MOB2")])
def test_checksums_are_those_of_the_real_files(
    dataset: str, section: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    import os

    folder = os.environ.get("NH2ST_DATA_DIR")
    if not folder:
        pytest.skip("NH2ST_DATA_DIR is not set")
    layout = {"her2st": "HER2ST", "mouse_olfactory_bulb": "MOB"}[dataset]
    from nh2st.datasets import _spatial_transcriptomics

    local = getattr(_spatial_transcriptomics, layout).find(Path(folder), section)
    server = request.getfixturevalue("server")
    for kind, file in _section_files.registry(dataset)[section].items():
        content = local[kind].read_bytes()
        zipped = local[kind].suffix == ".gz" and not file.path.endswith(".gz")
        server.files[f"/{file.repository}/{file.commit}/{file.path}"] = gzip.decompress(content) if zipped else content
    sdata = getattr(nh.datasets, dataset)(section)
    assert len(cached()) == 3
    assert sdata["table"].n_obs == {"C3": 180, "MOB2": 407}[section]
