"""Finished folds of a cross-validation: in memory, and in a folder from which the same run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from nh2st._settings import logger

_RUN = "run.json"
_LABELS = ("section", "gene", "model", "truth", "metric")
_LONGEST = 60


@dataclass(frozen=True)
class FoldResult:
    """What a fold gave.

    `predictions` are of the test spots, (n_test, n_genes) float32 by the name of the model; `scores` is tidy; `choice`
    says which of several settings was chosen, by which scores.
    """

    genes: list[str]
    gene_sets: dict[str, list[str]]
    predictions: dict[str, np.ndarray]
    scores: pd.DataFrame
    choice: dict[str, Any]


class FoldFolder:
    """Folder with a file for each finished fold, and one that says of which run they are.

    Nothing is kept where `folder` is `None`.

    Raises
    ------
    ValueError
        If the folder holds folds of another run; what differs is named.
    OSError
        If it cannot be written to.
    """

    def __init__(self, folder: str | Path | None, run: Callable[[], Mapping[str, Any]]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        values = json.loads(json.dumps(run(), default=str))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / _RUN).exists():
                _check_same_run(self.folder, values)
            else:
                text = json.dumps(values, indent=1)
                _write(self.folder / _RUN, lambda file: file.write(text.encode()))
        except OSError as error:
            msg = f"Folds cannot be kept in {self.folder}: {error}. Name another `folder=`."
            raise OSError(msg) from error

    def read(self, number: int) -> FoldResult | None:
        """Give a fold that was finished before.

        Raises
        ------
        ValueError
            If its file is damaged.
        """
        if self.folder is None or not (path := self.folder / _name(number)).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                texts = json.loads(str(stored["texts"]))
                predictions = {name: stored[f"prediction_{number}"] for number, name in enumerate(texts.pop("models"))}
                scores = {name: stored[name].astype(object) for name in _LABELS} | {"value": stored["value"]}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            msg = f"{path} is damaged ({error}). Delete it, and the fold is computed again."
            raise ValueError(msg) from error
        logger.info("Fold %d was finished before, and is read from %s.", number, path)
        return FoldResult(**texts, predictions=predictions, scores=pd.DataFrame(scores))

    def write(self, number: int, result: FoldResult) -> None:
        """Keep a finished fold, whole or not at all."""
        if self.folder is None:
            return
        texts = {
            "genes": result.genes,
            "gene_sets": result.gene_sets,
            "choice": result.choice,
            "models": list(result.predictions),
        }
        arrays: dict[str, Any] = {
            f"prediction_{number}": part for number, part in enumerate(result.predictions.values())
        }
        arrays |= {name: result.scores[name].to_numpy(dtype=str) for name in _LABELS}
        arrays["value"] = result.scores["value"].to_numpy(dtype=np.float64)
        arrays["texts"] = np.array(json.dumps(texts))
        _write(self.folder / _name(number), lambda file: np.savez(file, **arrays))


def _name(number: int) -> str:
    return f"fold_{number}.npz"


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_same_run(folder: Path, values: Mapping[str, Any]) -> None:
    try:
        before = json.loads((folder / _RUN).read_text())
    except ValueError as error:
        msg = f"{folder / _RUN} is damaged ({error}). Name another `folder=`."
        raise ValueError(msg) from error
    names = list(dict.fromkeys([*values, *before]))
    if changed := [name for name in names if before.get(name) != values.get(name)]:
        was, now = (json.dumps(run.get(changed[0])) for run in (before, values))
        text = f" ({changed[0]} was {was}, is {now})" if max(len(was), len(now)) < _LONGEST else ""
        msg = (
            f"{folder} holds folds of another run: {', '.join(changed)} changed{text}. Give the same arguments and "
            "data to go on with it, or name another `folder=`."
        )
        raise ValueError(msg)
