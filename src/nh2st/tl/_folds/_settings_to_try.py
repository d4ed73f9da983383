"""Training settings given to cross-validation, checked before anything is read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from nh2st.tl._train import train
from nh2st.tl._training._hardware import Place, resolve_place
from nh2st.tl._training._training_settings import TrainingSettings, settings_of

_SHARED = ("target", "seed")
_PLACE = ("device", "precision")
_NEVER = {
    "init_from": "a model that was trained before may have seen the test sections",
    "resume_from": "finished folds are kept with `folder=`",
    "checkpoint_dir": "finished folds are kept with `folder=`",
    "devices": "folds are trained on one device",
    "num_nodes": "folds are trained on one device",
    "strategy": "folds are trained on one device",
}
SINGLE = "all"


@dataclass(frozen=True)
class Candidates:
    """The settings that were asked for, and by their name those to choose from: themselves where none are named."""

    asked: TrainingSettings
    named: dict[str, TrainingSettings]
    place: Place

    @property
    def all(self) -> list[TrainingSettings]:
        """Every one of them."""
        return [self.asked, *self.named.values()]


def candidates_of(
    training: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]] | None, **shared: Any
) -> Candidates:
    """Settings to try, from those of :func:`nh2st.tl.train`, whose defaults fill in the others.

    Raises
    ------
    TypeError
        If a setting is unknown, or `settings` are no dictionaries.
    ValueError
        If a setting has no place in cross-validation, or has an invalid value.
    RuntimeError
        If the device is not there.
    """
    allowed = [field.name for field in fields(TrainingSettings) if field.name not in _SHARED]
    _check_names(training, [*allowed, *_PLACE], "")
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    given = defaults | shared | dict(training)
    asked = settings_of(given, None)
    place = resolve_place(given["device"], given["precision"], devices=1, num_nodes=1, strategy="auto")
    named = {SINGLE: asked}
    if settings is not None:
        _check_settings(settings)
        for name, changed in settings.items():
            _check_names(changed, allowed, f" in settings[{name!r}]")
        named = {name: replace(asked, **changed) for name, changed in settings.items()}
    candidates = Candidates(asked, named, place)
    for each in candidates.all:
        each.schedule()
    return candidates


def _check_settings(settings: Mapping[str, Mapping[str, Any]]) -> None:
    if not isinstance(settings, Mapping) or not all(isinstance(changed, Mapping) for changed in settings.values()):
        msg = 'settings= must map names to settings, such as {"slow": {"learning_rate": 1e-4}, "fast": {}}.'
        raise TypeError(msg)
    if not settings:
        msg = "settings= is empty: name at least one, or leave it out."
        raise ValueError(msg)


def _check_names(given: Mapping[str, Any], allowed: list[str], where: str) -> None:
    for name in given:
        if name in _NEVER:
            msg = f"{name}={where} has no place in cross-validation: {_NEVER[name]}. Leave it out."
            raise ValueError(msg)
    if unknown := [name for name in given if name not in allowed]:
        close = [match for name in unknown for match in get_close_matches(str(name), allowed, n=1)]
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        msg = f"Unknown training setting {', '.join(map(repr, unknown))}{where}.{hint} There are: {', '.join(allowed)}."
        raise TypeError(msg)
