"""The pretrained models: which there are, and where their files are found."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib import resources
from importlib.metadata import metadata
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final
from urllib.parse import urlparse
from urllib.request import url2pathname

import pandas as pd

from nh2st._download import download, has_sha256
from nh2st._settings import logger, settings
from nh2st.models._file import SUFFIX

WEIGHTS_URL_VARIABLE: Final = "NH2ST_WEIGHTS_URL"
WEIGHTS_FOLDER: Final = "weights"
REGISTRY_FILE: Traversable = resources.files("nh2st.models") / "registry.json"
NO_HOME: Final = "example.org"
"""Host of a project that has no address yet: it is reserved for examples (RFC 2606)."""

CHECKOUT: Final = Path(__file__).parents[3]

# No dot and no slash: neither a path nor the name of a file.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "list[str]": list,
}


@dataclass(frozen=True)
class RegisteredModel:
    """A model of the registry."""

    name: str
    organism: str
    tissue: str
    assay: str
    sections: list[str]
    """Sections that it was trained on."""
    n_genes: int
    encoder: str
    target: str
    patch_um: float | None
    patch_px: int
    pearson: float
    """Cross-validated mean correlation over genes, raw truth."""
    ridge_pearson: float
    """That of PCA + ridge on the frozen encoder, on the same folds."""
    validation: str
    """How both were cross-validated."""
    licence: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, _KINDS[str(field.type)]) or isinstance(value, bool) or value == "":
                msg = f"{field.name} of {self.name!r} is {value!r}"
                raise ValueError(msg)
        for field_name, pattern in (("name", _NAME), ("sha256", _SHA256)):
            if not pattern.fullmatch(getattr(self, field_name)):
                msg = f"{field_name} {getattr(self, field_name)!r} is not of the form {pattern.pattern}"
                raise ValueError(msg)
        if not all(isinstance(section, str) for section in self.sections):
            msg = f"sections of {self.name!r} are {self.sections!r}"
            raise ValueError(msg)
        if self.bytes < 1:
            msg = f"bytes of {self.name!r} are {self.bytes}"
            raise ValueError(msg)

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}{SUFFIX}"

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of its patches."""
        return None if self.patch_um is None else self.patch_um / self.patch_px

    @property
    def card(self) -> str:
        """Page that describes it, in the project's repository."""
        page = f"docs/models/{self.name}.md"
        return f"{source}/blob/HEAD/{page}" if (source := _source_url()) else page


def available() -> pd.DataFrame:
    """List the pretrained models.

    Returns
    -------
    A row for each model, named as :func:`nh2st.models.load` takes it, the default first: ``organism``, ``tissue``,
    ``assay`` and ``sections`` that it was trained on, ``n_genes``, ``encoder``, ``target``, size of its patches
    (``patch_um``, ``patch_px``, and ``mpp``, micrometres per pixel; NaN for plain pixels), cross-validated mean
    correlation over genes (``pearson``, that of the ridge baseline in ``ridge_pearson``, and how it was done in
    ``validation``), ``licence``, ``bytes`` and ``sha256`` of the file, and ``card``, the page that describes it.

    Raises
    ------
    ValueError
        If the registry that came with the package is damaged.

    Examples
    --------
    >>> import nh2st as nh
    >>> nh.models.available()[["organism", "tissue", "n_genes"]]  # doctest: +SKIP
    """
    columns = [field.name for field in fields(RegisteredModel) if field.name != "name"]
    columns.insert(columns.index("patch_px") + 1, "mpp")
    columns.append("card")
    found = registry()
    rows = [{column: getattr(model, column) for column in columns} for model in found.values()]
    frame = pd.DataFrame(rows, index=pd.Index(found, name="name", dtype=object), columns=columns)
    return frame.astype({"patch_um": float, "mpp": float})


def registry() -> dict[str, RegisteredModel]:
    """Pretrained models by name, the default first.

    Raises
    ------
    ValueError
        If the registry is damaged; two models of one name among them.
    """
    try:
        return parse_registry(REGISTRY_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        msg = f"The registry of pretrained models, {REGISTRY_FILE}, is damaged ({error}). Reinstall nh2st."
        raise ValueError(msg) from error


def parse_registry(text: str) -> dict[str, RegisteredModel]:
    """Models of a registry's text: a JSON list of objects with the fields of :class:`RegisteredModel`."""
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        msg = "it is no list of models"
        raise ValueError(msg)
    models = [RegisteredModel(**entry) for entry in entries]
    if twice := [name for name, count in Counter(model.name for model in models).items() if count > 1]:
        msg = f"there are two models named {', '.join(twice)}"
        raise ValueError(msg)
    return {model.name: model for model in models}


def format_registry(models: dict[str, RegisteredModel]) -> str:
    """Text that :func:`parse_registry` reads."""
    return json.dumps([asdict(model) for model in models.values()], indent=2) + "\n"


def is_name(text: str) -> bool:
    """Whether a text can be the name of a registered model."""
    return _NAME.fullmatch(text) is not None


def find_file(model: RegisteredModel) -> Path:
    """Checked file of a model: from the cache, a checkout of the project, the mirror that was set, or downloaded.

    Raises
    ------
    FileNotFoundError
        If the file is not on this machine, and no address is known.
    ConnectionError, ValueError, OSError
        If it cannot be downloaded, what came is not the file, or the cache cannot be written to.
    """
    target = Path(settings.cache_dir).expanduser() / WEIGHTS_FOLDER / model.file
    base = weights_url()
    for path in (target, *_local_files(model, base)):
        if has_sha256(path, model.sha256):
            return path
        if path.is_file():
            logger.warning("%s is not the model %s of the registry (its sha256 differs); not used.", path, model.name)
    mirror = (
        "To use a mirror or a folder with the file, such as the `weights` of a checkout, set `nh.settings.weights_url` "
        f"or the variable {WEIGHTS_URL_VARIABLE}."
    )
    if base is None or not _is_web(base):
        where = "no address to download it from is known" if base is None else f"it is not in {base} either"
        msg = (
            f"The file of the model {model.name!r} is not on this machine, and {where}. {mirror} To do it by hand, put "
            f"{model.file} (sha256 {model.sha256}) at {target}."
        )
        raise FileNotFoundError(msg)
    url = f"{base.rstrip('/')}/{model.file}"
    return download(url, target, sha256=model.sha256, size=model.bytes, hint=mirror)


def weights_url() -> str | None:
    """Address or folder of the models' files: setting, else variable, else the project's repository, else none."""
    if given := settings.weights_url or os.environ.get(WEIGHTS_URL_VARIABLE):
        return str(given)
    source = _source_url()
    return f"{source}/raw/HEAD/{WEIGHTS_FOLDER}" if source else None


def _source_url() -> str | None:
    for entry in metadata("nh2st").get_all("Project-URL") or []:
        label, _, url = entry.partition(",")
        if label.strip().lower() == "source" and urlparse(url.strip()).hostname != NO_HOME:
            return url.strip().rstrip("/").removesuffix(".git")
    return None


def _is_web(base: str) -> bool:
    return urlparse(base).scheme in ("http", "https")


def _local_files(model: RegisteredModel, base: str | None) -> Iterator[Path]:
    if (CHECKOUT / "pyproject.toml").is_file():
        yield CHECKOUT / WEIGHTS_FOLDER / model.file
    if base is not None and not _is_web(base):
        folder = Path(url2pathname(urlparse(base).path) if base.startswith("file:") else base).expanduser()
        yield folder / model.file
        yield folder / WEIGHTS_FOLDER / model.file
