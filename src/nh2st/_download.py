"""Downloads into the cache: checked by sha256, continued where they stopped, by one process at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nh2st._keys import CACHE_DIR_VARIABLE
from nh2st._settings import logger, progress

_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether there is a file with this checksum."""
    import pooch

    return path.is_file() and pooch.file_hash(str(path), alg="sha256") == sha256


def download(url: str, target: Path, *, sha256: str, size: int, hint: str = "") -> Path:
    """Path of a file in the cache, downloaded if it is not there yet.

    What has arrived is kept beside the target under a hidden name, from which the next call goes on if the server can,
    and is moved to its place only when its checksum is right. A second process waits for the first.

    Parameters
    ----------
    url
        Where the file is.
    target
        Where it is to be.
    sha256
        Its checksum.
    size
        Its bytes. No more than these are received.
    hint
        Another way to get the file, said in errors.

    Returns
    -------
    The target.

    Raises
    ------
    ConnectionError
        If the file cannot be had, or not to its end.
    ValueError
        If what came is not the file.
    OSError
        If the cache cannot be written to.
    """
    from requests import RequestException

    if has_sha256(target, sha256):
        return target
    by_hand = f"To do it by hand, put {url} (sha256 {sha256}) at {target}."
    by_hand = f"{hint} {by_hand}" if hint else by_hand
    try:
        with _alone(target):
            _retrieve(url, target, sha256, size)
    except RequestException as error:
        msg = f"Could not download {url}: {error}. {by_hand}"
        raise ConnectionError(msg) from error
    except ValueError as error:
        msg = f"The download of {url} is damaged: {error}. Try again. {by_hand}"
        raise ValueError(msg) from error
    except OSError as error:
        msg = (
            f"{url} could not be written into the cache folder {target.parent}: {error}. Free space there, or choose "
            f"another folder with `nh.settings.cache_dir` or the variable {CACHE_DIR_VARIABLE}."
        )
        raise OSError(msg) from error
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is downloading %s; waiting for it.", target.name)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps the file while it is open
            os.unlink(lock.lock_file)
        lock.release()


def _retrieve(url: str, target: Path, sha256: str, size: int) -> None:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    receiver = _Receiver(target.with_name(f".{target.name}.{sha256[:8]}.part"), size)
    continued = receiver.part.exists()
    fetch = {"known_hash": f"sha256:{sha256}", "path": target.parent, "fname": target.name, "downloader": receiver}
    try:
        pooch.retrieve(url, **fetch)
    except ValueError as error:
        if not continued:
            raise
        logger.info("%s could not be continued (%s); starting again.", target.name, error)
        pooch.retrieve(url, **fetch)


@dataclass(frozen=True)
class _Receiver:
    """Downloader for pooch that appends to what an earlier attempt has received."""

    part: Path
    size: int

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        received = self.part.stat().st_size if self.part.exists() else 0
        if received < self.size:
            logger.info("%s %s", "continuing the download of" if received else "downloading", url)
            self._receive(url, received)
        os.replace(self.part, output_file)

    def _receive(self, url: str, received: int) -> None:
        import requests

        # A compressed answer could not be continued.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={received}-"} if received else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if received and not self._continues(response, received):
                received = 0
            response.raise_for_status()
            if response.headers.get("Content-Type", "").startswith("text/html"):
                msg = "the server answered with a web page, which may say an error or ask for a login"
                raise ValueError(msg)
            resumable = response.status_code == 206 or response.headers.get("Accept-Ranges") == "bytes"
            try:
                self._append(response, received)
            except BaseException:
                if not resumable:
                    self.part.unlink(missing_ok=True)
                raise

    def _continues(self, response: Any, received: int) -> bool:
        if response.status_code == 206:
            there = response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
        else:
            there = response.status_code != 416
        if not there:
            self.part.unlink()
            msg = "the server's file does not go on where the earlier download stopped"
            raise ValueError(msg)
        return response.status_code == 206

    def _append(self, response: Any, received: int) -> None:
        bar = progress(None, self.part.name.split(".")[1], total=self.size, unit="B")
        bar.update(received)
        with bar, open(self.part, "ab" if received else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                received += len(chunk)
                if received > self.size:
                    break
                file.write(chunk)
                bar.update(len(chunk))
        if received != self.size:
            self.part.unlink()
            came = f"{received} bytes came" if received < self.size else "more bytes came"
            msg = f"{came} where the file has {self.size}"
            raise ValueError(msg)
