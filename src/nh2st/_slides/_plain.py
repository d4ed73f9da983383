"""PNG and JPEG files, which are decoded whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import dask.array as da
import numpy as np
from PIL import Image

from nh2st._slides._multiscale import CHUNK_PX
from nh2st._slides._stated_mpp import mpp_of_resolution

_FORMATS = ("PNG", "JPEG")
_GREY = ("1", "L", "LA", "I", "F")


def read_plain(path: Path) -> tuple[list[da.Array], float | None]:
    """Pixels of a PNG or JPEG file, as one level (c, y, x), and their micrometres where the file tells.

    Raises
    ------
    ValueError
        If the file is no such image, is damaged, has no colours, or is larger than Pillow's limit for images that are
        decoded whole.
    """
    try:
        with warnings.catch_warnings():
            # Of images above half the limit, which slides often are.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                dpi = image.info.get("dpi")
                pixels = None if _is_grey(image) else _on_white(image)
    except Image.DecompressionBombError as error:
        msg = (
            f"{path} is too large to be decoded whole ({error}). Convert it to a tiled TIFF, which is read in parts: "
            "`vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg`."
        )
        raise ValueError(msg) from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        msg = f"{path} cannot be read: it is damaged, or no PNG, JPEG or TIFF file ({error})."
        raise ValueError(msg) from error
    if pixels is None:
        msg = f"{path} is a grey image; H&E patches need the three colours of an RGB image."
        raise ValueError(msg)
    # name=False: hashing the pixels for a name would take longer than decoding them.
    level = da.from_array(pixels.transpose(2, 0, 1), chunks=(3, CHUNK_PX, CHUNK_PX), name=False)
    return [level], mpp_of_resolution(dpi) if dpi else None


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or image.mode.startswith("I;")


def _on_white(image: Image.Image) -> np.ndarray:
    """RGB pixels (y, x, 3); what is transparent is white, as glass is."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    return np.asarray(image.convert("RGB"))
