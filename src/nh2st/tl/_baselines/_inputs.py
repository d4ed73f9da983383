"""What the baselines know of each spot: computed once, and the same in all folds of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nh2st._patches import Windows
from nh2st._sections import Section, scaled_windows
from nh2st.nn import Encoder
from nh2st.tl._baselines._colour_texture import colour_texture
from nh2st.tl._baselines._ridge import inner_folds
from nh2st.tl._frozen import frozen_features
from nh2st.tl._training._spots import neighbors_of, section_numbers


@dataclass(frozen=True)
class BaselineInputs:
    """All spots of all sections, one after another; nothing of it depends on expression.

    `colour_texture` (n, N_STATISTICS); `features` (n, n_features), pooled, of the frozen encoder; `neighbors` (n, 8)
    positions of each spot's neighbours, -1 where there are fewer; `coordinates` (n, 2); `section` (n,) and `group` (n,)
    numbers of section and donor; `features_2x` (n, n_features) of patches of twice the side, where they were asked for.
    """

    colour_texture: np.ndarray
    features: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray
    group: np.ndarray
    features_2x: np.ndarray | None = None

    def folds(self, rows: np.ndarray) -> np.ndarray:
        """Donors of some rows, or sections where they are of one donor, or halves of a single section."""
        return inner_folds(self.coordinates[rows], self.group[rows], self.section[rows])


def baseline_inputs(
    sections: Sequence[Section],
    windows: Sequence[Windows],
    encoder: Encoder,
    device: torch.device,
    *,
    groups: Sequence[np.ndarray] | None = None,
    twice_the_side: bool = False,
) -> BaselineInputs:
    """Read the patches of all sections, and keep what was computed from them in the cache.

    Parameters
    ----------
    sections, windows
        Sections and the windows of their patches.
    encoder
        Encoder, which stays as it is.
    device
        Where it runs.
    groups
        Donor of each spot, an array a section; every section is a donor of its own where absent.
    twice_the_side
        Also encode patches of twice the side, at half the resolution.

    Raises
    ------
    ValueError
        If the memory limit is too small for a batch.
    OSError
        If an image cannot be read; section and image are named.
    """
    section = section_numbers(sections)
    group = section if groups is None else np.unique(np.concatenate(groups), return_inverse=True)[1]

    def features(of: Sequence[Windows]) -> np.ndarray:
        return frozen_features(encoder, sections, of, device).astype(np.float32)

    twice = [scaled_windows(*pair, 2) for pair in zip(sections, windows, strict=True)]
    return BaselineInputs(
        colour_texture=colour_texture(sections, windows),
        features=features(windows),
        neighbors=neighbors_of(sections),
        coordinates=np.concatenate([one.xy for one in sections]),
        section=section,
        group=group,
        features_2x=features(twice) if twice_the_side else None,
    )
