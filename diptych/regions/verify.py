"""Is a region store what was written, and do two of them say the same?

verify     every byte against the hash, boxes inside the picture, probabilities that sum to one, finite features
compare    picture by picture: how many both hold, and of those that have the same boxes how far features and classes are apart
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diptych.config import UserError
from diptych.regions.store import RegionStore, digest

SLACK = 0.01  # 100 and more probabilities in half precision sum to one within this


def verify(path: Path) -> dict[str, Any]:
    """Counts of a store that is as it should be; otherwise a complaint that names the first picture at fault."""
    store = RegionStore(path)
    if digest(store.path, store.about) != store.fingerprint:
        raise UserError(f"{path}: other bytes than were written (sha256 differs); make it again")
    bare = 0
    for key in store:
        own = store.at(key)
        bare += not len(own.box_R4)
        low_R2, high_R2 = own.box_R4[:, :2], own.box_R4[:, 2:]
        wrong = {
            "a box outside the picture": (low_R2 < 0).any() or (high_R2 > 1).any(),
            "a box without area": (high_R2 <= low_R2).any(),
            "a feature that is no number": not np.isfinite(own.feature_RD).all(),
            "class probabilities that do not sum to 1": (abs(own.soft_label_RK.astype(np.float32).sum(1) - 1) > SLACK).any(),
        }
        if said := [what for what, is_so in wrong.items() if is_so]:
            raise UserError(f"{path}: {key} has {said[0]}")
    return {
        "pictures": len(store),
        "without_regions": bare,
        "regions": store.about["rows"],
        "width": store.width,
        "classes": len(store.classes),
        "sha256": store.fingerprint,
    }


def compare(path: Path, other_path: Path) -> dict[str, Any]:
    store, other = RegionStore(path), RegionStore(other_path)
    theirs = set(other)
    shared = [key for key in store if key in theirs]
    same, feature, label, agreed, regions = 0, 0.0, 0.0, 0, 0
    is_alike = (store.width, store.classes) == (other.width, other.classes)
    for key in shared:
        here, there = store.at(key), other.at(key)
        if here.box_R4.shape != there.box_R4.shape or not np.allclose(here.box_R4, there.box_R4, atol=1e-3):
            continue
        same += 1
        if is_alike and len(here.box_R4):
            label_RK, other_RK = here.soft_label_RK.astype(np.float32), there.soft_label_RK.astype(np.float32)
            feature = max(feature, float(abs(here.feature_RD.astype(np.float32) - there.feature_RD.astype(np.float32)).max()))
            label = max(label, float(abs(label_RK - other_RK).max()))
            agreed += int((label_RK.argmax(1) == other_RK.argmax(1)).sum())
            regions += len(here.box_R4)
    found = {"pictures": len(shared), "only_here": len(store) - len(shared), "only_there": len(other) - len(shared)}
    found |= {"same_boxes": same}
    if not is_alike:
        return found | {"width": f"{store.width} here, {other.width} there"}
    return found | {
        "regions": regions,
        "same_class": agreed,
        "largest_feature_difference": feature,
        "largest_label_difference": label,
    }
