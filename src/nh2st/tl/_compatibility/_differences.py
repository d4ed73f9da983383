"""How sections differ from those that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nh2st._sections import Section
from nh2st._settings import logger
from nh2st.models import Model
from nh2st.tl._compatibility._assay import assays_of

_OTHER_PITCH = 1.3
_COARSER = 1.5
_SAME_PITCH = 1.1
_ARRAYS = (
    ("hexagonal", 100.0, "Visium"),
    ("square", 200.0, "Spatial Transcriptomics"),
    ("square", 16.0, "Visium HD"),
    ("square", 8.0, "Visium HD"),
    ("square", 2.0, "Visium HD"),
)
"""Kind, pitch in micrometres and name of common assays."""

_NUMBERS = ("pitch", "mpp")
_TEXTS = ("array", "organism", "assay")
_UNKNOWN = ("", "generic")

Record = Mapping[str, Any]
"""What is known of a section."""


class _Difference(NamedTuple):
    """One way to differ: what is compared, whether a value is unlike all of the training, how it reads, and advice."""

    what: str
    unlike: Callable[[Any, list[Any]], bool]
    text: Callable[[Sequence[Record]], str]
    advice: str


def warn_of_differences(sections: Sequence[Section], mpp: Sequence[float | str], model: Model) -> None:
    """Warn, once for each kind, of sections whose spots, image, organism or assay are unlike all of the training.

    Nothing is said of what is not known of both.
    """
    new = _records(assays_of(sections, mpp) | {"mpp": list(mpp)})
    old = _records(model.provenance)
    for name, kind in _differences(model).items():
        trained = [record for record in old if name in record]
        if not trained:
            continue
        known = [record[name] for record in trained]
        differ = [number for number, record in enumerate(new) if name in record and kind.unlike(record[name], known)]
        if differ:
            logger.warning(
                "Section%s %s: %s is %s, in the training of the model it was %s. %s",
                "s" if len(differ) > 1 else "",
                ", ".join(repr(sections[number].name) for number in differ),
                kind.what,
                kind.text([new[number] for number in differ]),
                kind.text(trained),
                kind.advice,
            )


def _records(values: Mapping[str, Any]) -> list[Record]:
    """Known values of each section, from a list for each name, which may come from a file of any origin."""
    lists = {name: values[name] for name in (*_NUMBERS, *_TEXTS) if isinstance(values.get(name), list)}
    return [
        {name: items[number] for name, items in lists.items() if number < len(items) and _is_known(name, items[number])}
        for number in range(max(map(len, lists.values()), default=0))
    ]


def _is_known(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return isinstance(value, int | float) and 0 < value < float("inf")
    return isinstance(value, str) and value not in _UNKNOWN


def _differences(model: Model) -> dict[str, _Difference]:
    """Every kind, by the name of its values."""
    unit = "px" if model.patch_um is None else "um"
    of_patches = 0.0 if model.patch_um is None else model.patch_um / model.patch_px
    spots = "A spot measures another area there: fine-tune on such sections, `nh.tl.train(sdata, init_from=model)`."
    return {
        "pitch": _Difference(
            "the distance of spots",
            lambda value, known: all(_ratio(value, trained) > _OTHER_PITCH for trained in known),
            lambda records: _span([record["pitch"] for record in records], unit),
            spots,
        ),
        "array": _Difference(
            "the array",
            lambda value, known: value not in known,
            lambda records: _distinct(_array_text(record, unit) for record in records),
            spots,
        ),
        "mpp": _Difference(
            "the scale of the image",
            lambda value, known: value > _COARSER * max(*known, of_patches),
            lambda records: _span([record["mpp"] for record in records], "um/px"),
            "Patches are upsampled, and blurred: use the full-resolution image.",
        ),
        "organism": _Difference(
            "the organism",
            _is_other_text,
            lambda records: _distinct(repr(record["organism"]) for record in records),
            "Choose a model that was trained on it.",
        ),
        "assay": _Difference(
            "the assay",
            _is_other_text,
            lambda records: _distinct(repr(record["assay"]) for record in records),
            "Where it is of another kind, fine-tune on such sections, `nh.tl.train(sdata, init_from=model)`.",
        ),
    }


def _ratio(value: float, other: float) -> float:
    return max(value / other, other / value)


def _is_other_text(value: str, known: Sequence[str]) -> bool:
    return value.casefold() not in {text.casefold() for text in known}


def _span(values: Sequence[float], unit: str) -> str:
    ends = dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values)))
    return f"{' to '.join(ends)} {unit}"


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _array_text(record: Record, unit: str) -> str:
    """Text such as ``"hexagonal of 100 um, as Visium"``."""
    kind = str(record["array"])
    if "pitch" not in record:
        return kind
    for array, pitch, assay in _ARRAYS:
        if unit == "um" and kind == array and _ratio(record["pitch"], pitch) < _SAME_PITCH:
            return f"{kind} of {pitch:g} um, as {assay}"
    return f"{kind} of {record['pitch']:.3g} {unit}"
