"""Pretrained models from a web server that works, and from those that do not."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import nh2st as nh
from nh2st.models import _registry

NAME = "tiny-0"
FILE = f"{NAME}.safetensors"
CHUNK = 1 << 16


@dataclass
class Server:
    """What a local web server answers and how, and the ranges that it was asked for."""

    url: str = ""
    content: bytes | None = None
    ranges: bool = True
    dies_after: int | None = None
    content_type: str = "application/octet-stream"
    seconds: float = 0.0
    asked: list[str | None] = field(default_factory=list)


def _handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.content is None or not self.path.endswith(FILE):
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            self._answer(state.content, start)

        def _answer(self, content: bytes, start: int) -> None:
            self.send_response(206 if start else 200)
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            time.sleep(state.seconds)
            self.wfile.write(content[start:][: state.dies_after])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    state = Server()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/weights"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NH2ST_WEIGHTS_URL", state.url)
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(_registry, "CHECKOUT", tmp_path / "no checkout")
    monkeypatch.setattr(_registry, "REGISTRY_FILE", tmp_path / "registry.json")
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def content(server: Server, model: nh.models.Model, tmp_path: Path) -> bytes:
    """The file of the registered model, which the server has."""
    content = model.save(tmp_path / FILE, inference_only=True).read_bytes()
    entry = json.loads((Path(__file__).parent / "entry.json").read_text())
    entry |= {"name": NAME, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "registry.json").write_text(json.dumps([entry]))
    server.content = content
    assert len(content) > 4 * CHUNK
    return content


def target() -> Path:
    return nh.settings.cache_dir / "weights" / FILE


def in_cache() -> list[str]:
    return sorted(path.name for path in nh.settings.cache_dir.rglob("*") if path.is_file())


def fails(server: Server, error: type[Exception], match: str) -> str:
    """Load, which must fail and say how to get the file by other means; nothing may lie under its name."""
    with pytest.raises(error, match=match) as caught:
        nh.models.load(NAME)
    message = str(caught.value)
    for part in (f"{server.url}/{FILE}", _registry.registry()[NAME].sha256, str(target()), "by hand"):
        assert part in message
    assert "nh.settings.weights_url" in message
    assert not target().exists()
    return message


def test_a_model_is_downloaded_once(server, content, model, caplog):
    loaded = nh.models.load(NAME)
    assert loaded.genes == model.genes
    assert loaded.inference_only
    assert target().read_bytes() == content
    assert in_cache() == [FILE]
    assert f"downloading {server.url}/{FILE}" in caplog.text
    server.content = None
    assert nh.models.load(NAME).sha256 == loaded.sha256
    assert server.asked == [None]


def test_progress_is_shown_in_a_terminal(content, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    nh.models.load(NAME)
    assert NAME in terminal.getvalue()
    assert f"/{len(content) / 1000:.0f}k" in terminal.getvalue()
    assert "B/s" in terminal.getvalue()


def test_damaged_file_in_the_cache_is_downloaded_again(server, content, caplog):
    nh.models.load(NAME)
    target().write_bytes(content[:1000])
    nh.models.load(NAME)
    assert target().read_bytes() == content
    assert "is not the model tiny-0 of the registry" in caplog.text
    assert len(server.asked) == 2


def test_no_such_file(server, content):
    server.content = None
    fails(server, ConnectionError, "404")
    assert in_cache() == []


@pytest.mark.parametrize("kind", ["truncated", "changed", "longer", "empty", "html", "html called binary"])
def test_another_file(server, content, kind):
    html = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    server.content = {
        "truncated": content[: len(content) // 2],
        "changed": content[:-1] + b"x",
        "longer": content * 2,
        "empty": b" ",
        "html": html,
        "html called binary": html,
    }[kind]
    server.content_type = "text/html; charset=utf-8" if kind == "html" else server.content_type
    message = fails(server, ValueError, "is damaged")
    assert in_cache() == []
    assert kind != "html" or "answered with a web page" in message
    server.content, server.content_type = content, "application/octet-stream"
    assert nh.models.load(NAME).genes


def test_download_goes_on_where_it_stopped(server, content, caplog):
    server.dies_after = 3 * CHUNK + 100
    fails(server, ConnectionError, "Could not download")
    (part,) = in_cache()
    assert part.startswith(f".{FILE}")
    assert part.endswith(".part")
    received = (target().parent / part).stat().st_size
    assert 0 < received <= server.dies_after
    server.dies_after = None
    assert nh.models.load(NAME).genes
    assert server.asked == [None, f"bytes={received}-"]
    assert target().read_bytes() == content
    assert in_cache() == [FILE]
    assert "continuing the download" in caplog.text


def test_servers_that_cannot_continue(server, content):
    server.ranges, server.dies_after = False, 3 * CHUNK
    fails(server, ConnectionError, "Could not download")
    assert in_cache() == []
    server.dies_after = None
    assert nh.models.load(NAME).genes


def test_a_part_whose_server_no_longer_continues(server, content):
    server.dies_after = 3 * CHUNK
    fails(server, ConnectionError, "Could not download")
    server.ranges, server.dies_after = False, None
    assert nh.models.load(NAME).genes
    assert in_cache() == [FILE]


@pytest.mark.parametrize("kind", ["another file", "too long", "complete but wrong", "complete"])
def test_a_part_that_cannot_be_continued(server, content, kind):
    server.dies_after = 3 * CHUNK
    fails(server, ConnectionError, "Could not download")
    part = target().parent / in_cache()[0]
    size = len(content)
    part.write_bytes({"another file": bytes(5 * CHUNK), "too long": bytes(size + 5)}.get(kind, bytes(size)))
    if kind == "complete":
        part.write_bytes(content)
    server.dies_after = None
    assert nh.models.load(NAME).genes
    assert target().read_bytes() == content
    assert in_cache() == [FILE]
    assert len(server.asked) == {"another file": 3, "complete": 1}.get(kind, 2)


def test_a_shorter_file_after_an_interruption(server, content):
    server.dies_after = 3 * CHUNK
    fails(server, ConnectionError, "Could not download")
    server.content, server.dies_after = b"short", None
    fails(server, ValueError, "5 bytes came where the file has")
    assert in_cache() == []


def test_no_connection(server, content, monkeypatch):
    server.url = "http://127.0.0.1:9/weights"
    monkeypatch.setenv("NH2ST_WEIGHTS_URL", server.url + "/")
    fails(server, ConnectionError, "Could not download http://127.0.0.1:9/weights/tiny-0.safetensors")
    assert in_cache() == []


@pytest.mark.parametrize("place", ["is a file", "is below a file", "is full"])
def test_a_cache_that_cannot_be_written(server, content, tmp_path, monkeypatch, place):
    blocked = tmp_path / "blocked"
    if place == "is full":
        monkeypatch.setattr("nh2st._download.os.replace", _full)
    else:
        blocked.write_text("mine")
        monkeypatch.setattr(nh.settings, "cache_dir", blocked / "cache" if place == "is below a file" else blocked)
    with pytest.raises(OSError, match="could not be written into the cache folder .*NH2ST_CACHE_DIR") as caught:
        nh.models.load(NAME)
    assert "nh.settings.cache_dir" in str(caught.value)
    assert place == "is full" or blocked.read_text() == "mine"
    assert not target().is_file()


def _full(*_: object) -> None:
    msg = "No space left on device"
    raise OSError(msg)


def test_a_cache_that_cannot_be_written_but_has_the_file(server, content, monkeypatch):
    nh.models.load(NAME)
    monkeypatch.setattr(Path, "mkdir", _full)
    assert nh.models.load(NAME).genes


def test_two_processes_download_once(server, content, tmp_path):
    server.seconds = 1.0
    path = tmp_path / "cache" / FILE
    code = (
        "from pathlib import Path; from nh2st._download import download\n"
        f"download({server.url + '/' + FILE!r}, Path({str(path)!r}), sha256={hashlib.sha256(content).hexdigest()!r}, "
        f"size={len(content)})"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    heard = "".join(process.communicate(timeout=60)[1] for process in running)
    assert [process.returncode for process in running] == [0, 0], heard
    assert path.read_bytes() == content
    assert in_cache() == [FILE]
    assert server.asked == [None]
