"""Descriptions of arguments that public functions share, written once and put into their docstrings."""

from __future__ import annotations

import re
from collections.abc import Callable
from textwrap import indent
from typing import Any, TypeVar

_TEXTS = {
    "data": """data
    SpatialData or AnnData, or a list or dictionary of them.""",
    "sections": """sections
    Names of the sections to use; all where absent.""",
    "spots": """spots
    Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one.""",
    "table_key": """table_key
    Which table to use where several fit.""",
    "table_elements": """table_key, shapes_key, coordinate_system
    Which elements to use where several fit.""",
    "elements": """table_key, image_key, shapes_key, coordinate_system
    Which elements to use where several fit; `image_key` may be a dictionary from section to image.""",
    "layer": """layer
    Layer that holds the counts; ``layers["counts"]`` where there is one, else ``X``, where absent.""",
    "key": """key
    Name of the predictions (``key_added`` of :func:`nh2st.tl.predict`).""",
    "copy": """copy
    Return a copy instead of writing into the AnnData given.""",
    "mpp": """mpp
    Micrometres per pixel of all images, or ``"native"`` for plain pixels. Where absent, the scale that is known for
    each image (see :func:`nh2st.pp.estimate_mpp`).""",
    "device": """device
    ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.""",
    "figure": """save
    File to write; its ending gives the format, such as ``.png`` or ``.pdf``.
show
    Show the figure. Where absent, it is shown if matplotlib is interactive, as in notebooks, and nothing is saved.""",
    "encoding_errors": """OSError
    If an image cannot be read; section and image are named, and nothing is written.
RuntimeError
    If a GPU is out of memory with half the batch too, the workers of the cluster cannot do the work, or an encoder
    does not bear 8-bit integers.
ImportError
    If a package for 8-bit integers is missing.""",
    "no_folder": """FileNotFoundError
    If the folder of `save` does not exist.""",
}

_TEXTS["selection"] = "\n".join(_TEXTS[name] for name in ("sections", "spots", "elements"))

_PLACE = re.compile(r"^( *)%\((\w+)\)s$", flags=re.MULTILINE)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def documented(function: _Function) -> _Function:
    """Put the shared descriptions in the place of lines such as ``%(spots)s`` of a function's docstring."""
    # Python leaves docstrings out where it is told to.
    if function.__doc__:
        function.__doc__ = _PLACE.sub(lambda place: indent(_TEXTS[place[2]], place[1]), function.__doc__)
    return function
