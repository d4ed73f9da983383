"""A checksum by which a section is known again, whatever its spots have measured."""

from __future__ import annotations

import hashlib

import numpy as np

from nh2st._sections._geometry import centers_and_radii, instances
from nh2st._sections._section import Section
from nh2st._sections._tables import region_column


def fingerprint(section: Section) -> str:
    """Short checksum of all spots' names and places, masked or not."""
    centers, _ = centers_and_radii(section.element, np.arange(len(instances(section.element))))
    places = np.unique(np.round(np.nan_to_num(centers)).astype(np.int64), axis=0)
    digest = hashlib.sha256(places.tobytes())
    of_region = region_column(section.adata) == section.region
    digest.update("\n".join(sorted(section.adata.obs_names[of_region])).encode())
    return digest.hexdigest()[:16]
