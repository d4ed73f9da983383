"""Where each patch lies in the image: one square window a spot, at the scale that is read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nh2st._patches._pyramid import Level, Pyramid

_BILINEAR_SUPPORT_PX = 1.0


@dataclass(frozen=True)
class Windows:
    """Square windows in pixels of one level.

    `start` (n, 2) holds the upper left corners as y, x; each window of `side` becomes a patch of `patch_px`.
    """

    level: Level
    start: np.ndarray
    side: float
    patch_px: int

    def __len__(self) -> int:
        return len(self.start)

    def take(self, positions: np.ndarray) -> Windows:
        """Some of the windows; the patches of each stay the same."""
        return replace(self, start=self.start[positions])

    @property
    def patch_bytes(self) -> int:
        """Bytes of one patch."""
        return 3 * self.patch_px**2

    @property
    def exact(self) -> bool:
        """Whether windows are whole pixels, copied without resampling."""
        return self.side == self.patch_px

    @property
    def margin(self) -> int:
        """Pixels beyond a window that the antialiasing filter reaches."""
        return 0 if self.exact else int(np.ceil(_BILINEAR_SUPPORT_PX * max(1.0, self.side / self.patch_px))) + 1

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole pixels that each window needs: first, and one past the last; each (n, 2) as y, x."""
        first = np.floor(self.start).astype(np.int64) - self.margin
        last = np.ceil(self.start + self.side).astype(np.int64) + self.margin
        return first, last

    @property
    def beyond_border(self) -> np.ndarray:
        """Which windows reach beyond the image, shape (n,)."""
        end = np.array(self.level.array.shape[1:])
        return np.any((self.start < 0) | (self.start + self.side > end), axis=1)


def plan_windows(pyramid: Pyramid, centers: np.ndarray, side_px: float, patch_px: int) -> Windows:
    """Windows around spot centres.

    Parameters
    ----------
    pyramid
        The image.
    centers
        x, y of the spot centres in scale-0 pixels, shape (n, 2); the first pixel spans 0 to 1.
    side_px
        Side of a window in scale-0 pixels.
    patch_px
        Side of the patches in pixels.
    """
    level = pyramid.level_for(side_px / patch_px)
    side = side_px / level.scale
    centers_yx = centers[:, ::-1] / (level.scale_y, level.scale_x)
    # A ratio within a tenth of a pixel over the whole patch is a copy: interpolation would only blur it.
    if abs(side - patch_px) < 0.1:
        start = np.rint(centers_yx - patch_px / 2)
        return Windows(level, start, float(patch_px), patch_px)
    return Windows(level, centers_yx - side / 2, side, patch_px)
