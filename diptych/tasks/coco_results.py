"""The fields that COCO's result files share: what captions, detections and found phrases are written down as.

captions      [{"image_id", "caption"}, ...]
detections    [{"image_id", "category_id", "bbox", "score"}, ...]
"""

from __future__ import annotations

from collections.abc import Sequence


def image_id(key: str) -> int | str:
    """COCO's pictures have whole numbers, and its evaluation finds them by nothing else. Other names stay, "007" too."""
    return int(key) if key.isdecimal() and str(int(key)) == key else key


def bbox(xyxy: Sequence[float]) -> list[float]:
    """[x, y, w, h], to a hundredth of a pixel."""
    x1, y1, x2, y2 = xyxy
    return [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
