"""Files of the Hugging Face hub: from its cache, or downloaded; what to do where neither is possible."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import huggingface_hub
from huggingface_hub.utils import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

HUB: Final = "hf-hub:"
_TIMEOUT_S = 5


def hub_file(encoder: str, source: str, names: Sequence[str], *, gated: bool = False) -> Path:
    """Path of the first of these files that a repository of the hub has, downloaded if it is not in the hub's cache.

    Parameters
    ----------
    encoder
        Name of the encoder, for the messages.
    source
        ``"hf-hub:owner/repository"``, with ``"@revision"`` behind it or not.
    names
        Names of the file, the preferred one first.
    gated
        Whether conditions must be accepted first.

    Raises
    ------
    RuntimeError
        If the file cannot be had: no connection, no access, or no such file. The message says what to do.
    """
    repository, _, revision = source.removeprefix(HUB).partition("@")
    for name in names:
        if path := _cached(repository, name, revision or None):
            return path
    try:
        _check_reachable(huggingface_hub.constants.ENDPOINT)
        return _downloaded(repository, names, revision or None)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        reason = f"{_page(repository)} is not open to you, or does not exist"
        raise RuntimeError(_message(encoder, repository, reason, gated=True)) from error
    except Exception as error:  # of the HTTP library, which differs between versions of the hub
        reason = f"{_page(repository)} could not be read ({_first_line(error)})"
        raise RuntimeError(_message(encoder, repository, reason, gated=gated)) from error


def _cached(repository: str, name: str, revision: str | None) -> Path | None:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=True))
    except (OSError, EntryNotFoundError):
        return None


def _check_reachable(endpoint: str) -> None:
    # The hub's own functions try again and again, for half a minute and more.
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        msg = "HF_HUB_OFFLINE is set"
        raise ConnectionError(msg)
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=_TIMEOUT_S).close()
    except HTTPError:
        pass
    except URLError as error:
        # The hub may know certificates that Python does not.
        if not isinstance(error.reason, ssl.SSLError):
            raise


def _downloaded(repository: str, names: Sequence[str], revision: str | None) -> Path:
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
    msg = f"it has no file {' or '.join(names)}"
    raise FileNotFoundError(msg)


def _message(encoder: str, repository: str, reason: str, *, gated: bool) -> str:
    access = (
        f"accept the conditions on {_page(repository)}, and log in here with `huggingface_hub.login()` or the "
        "variable HF_TOKEN"
    )
    ways = [
        "check the connection",
        *([access] if gated else []),
        "pass a file that you have: encoder_weights=<local file>",
    ]
    return (
        f"The weights of encoder {encoder!r} could not be had: {reason}. Ways out: {'; or '.join(ways)}. "
        "The default encoder, 'tf_efficientnet_lite0', needs no download."
    )


def _page(repository: str) -> str:
    return f"{huggingface_hub.constants.ENDPOINT}/{repository}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
