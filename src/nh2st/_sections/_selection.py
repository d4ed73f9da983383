"""Which parts of the data a function uses: the arguments that all functions share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

ImageKey: TypeAlias = str | Mapping[str, str] | None


@dataclass(frozen=True)
class Selection:
    """Elements, sections and spots of the data, named as in the public functions; what is None is inferred.

    `sections` are names of the sections to keep (regions, or ``object.region``), `spots` a boolean column of ``obs``
    (``in_tissue`` where there is one), `image_key` the image of all sections or a dictionary from section to image.
    """

    sections: Iterable[str] | None = None
    spots: str | None = None
    table_key: str | None = None
    image_key: ImageKey = None
    shapes_key: str | None = None
    coordinate_system: str | None = None

    def image_of(self, name: str, region: str) -> str | None:
        """Image that was asked for, for the section of this name and region."""
        if isinstance(self.image_key, Mapping):
            return self.image_key.get(name, self.image_key.get(region))
        return self.image_key


EVERYTHING = Selection()
