"""Tissue of slides that have no spots, and the tiles that take the place of spots."""

from __future__ import annotations

from collections.abc import Iterable

from nh2st._docs import documented
from nh2st._sections import ImageData, ImageKey, Mpp, objects_of
from nh2st._tissue import MIN_TISSUE, lay_tiles


@documented
def tissue_tiles(
    data: ImageData,
    *,
    image_key: ImageKey | Iterable[str] = None,
    tile_um: float | None = None,
    mpp: Mpp = None,
    min_tissue: float = MIN_TISSUE,
    overwrite: bool = False,
) -> None:
    """Find the tissue of slides without spots, and lay square tiles over it.

    Tissue is what has the colours of haematoxylin and eosin, and fine structure, in a small image of 8 um per pixel.
    That leaves out glass of any colour, smeared stain, dust, black borders, and black, blue, green and red pen marks
    together with the tissue that they hide. Violet ink has the colour of haematoxylin and is not told apart.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images.
    image_key
        Image or images to lay tiles on; of a dictionary from section to image, those that the object has. Where absent,
        all images, if each has a coordinate system of its own.
    tile_um
        Side of the tiles, which is also the distance of their centres: in micrometres, and in pixels with
        ``mpp="native"``. Where absent, 112 um, or 224 pixels.
    mpp
        Micrometres per pixel of all images, or ``"native"`` to lay tiles in plain pixels. Where absent, the scale that
        is known for each image.
    min_tissue
        Least share of a tile that is tissue, above 0 and up to 1.
    overwrite
        Replace elements of the names below that this package did not write, and tiles with what was predicted of them.

    Returns
    -------
    `None`. Written into each SpatialData, in place of earlier tiles:

    - shapes ``nh2st_tiles``: circles at the centres of the tiles, with half a tile's side as radius, in the image's
      coordinate systems,
    - shapes ``nh2st_tissue``: outlines of the tissue,
    - table ``nh2st``: one row a tile and no genes, which :func:`nh2st.tl.predict` adds; ``obs`` has ``array_row``,
      ``array_col`` and ``tissue_fraction``.

    Tiles on several images are one region each, whose shapes bear the image's name: ``nh2st_tiles_<image>`` and
    ``nh2st_tissue_<image>``.

    Raises
    ------
    ValueError
        If an image shows no tissue, is narrower than half a tile, or has no known scale; several images share a
        coordinate system; or an element would be replaced that is not ours, or holds results.
    KeyError
        If there is no such image.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(1, spots_per_side=6)
    >>> nh.pp.tissue_tiles(sdata, tile_um=100)
    >>> len(sdata["nh2st_tiles"]), sdata["nh2st"].n_obs
    (49, 49)
    """
    objects = [sdata for _, sdata in objects_of(data, images=True)]
    if not 0 < min_tissue <= 1:
        msg = f"min_tissue must be above 0 and at most 1, not {min_tissue!r}."
        raise ValueError(msg)
    lay_tiles(objects, image_key=image_key, tile_um=tile_um, mpp=mpp, min_tissue=min_tissue, overwrite=overwrite)
