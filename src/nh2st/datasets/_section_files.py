"""Files of the public data sets: found in a local folder, or downloaded once and checked."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from importlib import resources
from pathlib import Path

from nh2st._download import download
from nh2st._keys import DATA_DIR_VARIABLE
from nh2st._settings import settings

BASE_URL = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class RemoteFile:
    """A public file at a fixed commit; ``kind`` is ``"counts"``, ``"image"`` or ``"spots"``."""

    dataset: str
    section: str
    kind: str
    repository: str
    commit: str
    path: str
    sha256: str
    bytes: str

    @property
    def url(self) -> str:
        """Where the file is downloaded from."""
        return f"{BASE_URL}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class FileLayout:
    """How a data set's files are named.

    ``patterns`` has, for each kind of file, the globs relative to a folder, with ``{section}`` for the name of the
    section and ``{block}`` for its first letter. ``folders`` are subfolders that are tried beside the folder itself.
    """

    dataset: str
    patterns: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]

    def find(self, root: Path, section: str) -> dict[str, Path]:
        """Files of a section in a folder, by kind; kinds that are not there are left out."""
        found = {}
        for kind, patterns in self.patterns.items():
            names = (pattern.format(section=escape(section), block=escape(section[:1])) for pattern in patterns)
            globs = [str(Path(folder, name)) for name in names for folder in ("", *self.folders)]
            if path := next((path for glob in globs for path in sorted(root.glob(glob))), None):
                found[kind] = path
        return found

    def sections(self, root: Path) -> list[str]:
        """Names of the sections of which a folder has every file."""
        names: set[str] = set()
        for pattern in self.patterns["counts"]:
            for folder in ("", *self.folders):
                counts = root.glob(str(Path(folder, pattern.format(section="*"))))
                names.update(path.name.split(".")[0] for path in counts)
        return sorted(name for name in names if len(self.find(root, name)) == len(self.patterns))


def section_files(
    layout: FileLayout, sections: str | Iterable[str], path: str | Path | None
) -> dict[str, dict[str, Path]]:
    """Files of each section by kind, from ``path``, the folder of ``NH2ST_DATA_DIR``, or the internet."""
    sections = list(dict.fromkeys([sections] if isinstance(sections, str) else sections))
    if not sections:
        msg = f"No section of {layout.dataset} was asked for: sections is empty."
        raise ValueError(msg)
    folder = path if path is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return _downloaded(layout.dataset, sections)
    root = Path(folder).expanduser()
    if not root.is_dir():
        msg = f"The folder {root} ({'path' if path is not None else DATA_DIR_VARIABLE}) does not exist."
        raise FileNotFoundError(msg)
    return {section: _local(layout, root, section) for section in sections}


def _local(layout: FileLayout, root: Path, section: str) -> dict[str, Path]:
    found = layout.find(root, section)
    if missing := [kind for kind in layout.patterns if kind not in found]:
        wanted = "; ".join(
            f"{kind}: {' or '.join(layout.patterns[kind])}".format(section=section, block=section[:1])
            for kind in missing
        )
        complete = ", ".join(layout.sections(root)) or "none"
        msg = (
            f"{layout.dataset} section {section!r} is not complete in {root}: looked for {wanted} (also under "
            f"{', '.join(layout.folders)}). Complete sections there: {complete}. Add the files, give another path=, or "
            f"leave path out and unset {DATA_DIR_VARIABLE} to download them."
        )
        raise FileNotFoundError(msg)
    return found


def registry(dataset: str) -> dict[str, dict[str, RemoteFile]]:
    """Sections of a data set that have every kind of file on the internet, each with its files by kind."""
    text = resources.files("nh2st.datasets").joinpath("files.tsv").read_text(encoding="utf-8")
    sections: dict[str, dict[str, RemoteFile]] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        file = RemoteFile(**row)
        if file.dataset == dataset:
            sections.setdefault(file.section, {})[file.kind] = file
    return {name: files for name, files in sections.items() if len(files) == 3}


def _downloaded(dataset: str, sections: list[str]) -> dict[str, dict[str, Path]]:
    available = registry(dataset)
    if unknown := [section for section in sections if section not in available]:
        msg = (
            f"{dataset} has no section {', '.join(map(repr, unknown))} to download; available: "
            f"{', '.join(available)}. Other sections can be read from a local copy of the data with path=."
        )
        raise ValueError(msg)
    return {name: {kind: fetch(file) for kind, file in available[name].items()} for name in sections}


def fetch(file: RemoteFile) -> Path:
    """Path of a file in the cache, downloaded if it is not there yet."""
    target = Path(settings.cache_dir).expanduser() / file.dataset / file.path
    return download(file.url, target, sha256=file.sha256, size=int(file.bytes))
