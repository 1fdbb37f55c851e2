"""Recall at k of image-text retrieval, both ways, with several captions a picture (the COCO and Flickr30k protocol).

    txt_rK   a picture asks for texts:   share of pictures with ANY of their captions among the K best texts
    img_rK   a text asks for pictures:   share of captions whose picture is among the K best pictures

A rank counts the wrong candidates that score at least as high as the best right one: ties are counted against the system, so a
constant score earns nothing, and of two pictures with the same caption neither finds it first. (Published code breaks ties by
position; one evaluation even adds the row's index to its hits.) A score that is not a number counts as the lowest where it is
right and as the highest where it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

KS = (1, 5, 10)


_BLOCK = 256  # pictures looked at together: COCO's 5,000 x 25,000 scores are never compared all at once


def ranks(score_IC: ArrayLike, image_of_C: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """0 is best. [I] rank of each picture's best own caption among all texts; [C] rank of each caption's picture.

    score_IC: how well caption c fits picture i. image_of_C: the picture that caption c describes. A picture without captions
    has nothing to be found and is ranked behind all texts. Raises `ValueError` where the two do not fit, or there is nothing.
    """
    score_IC, image_of_C = np.asarray(score_IC), np.asarray(image_of_C)
    if score_IC.ndim != 2 or not score_IC.size or image_of_C.shape != score_IC.shape[1:]:
        raise ValueError(f"scores of {score_IC.shape} and pictures of {image_of_C.shape} captions: a column a caption is expected")
    images, captions = score_IC.shape
    if not 0 <= image_of_C.min() <= image_of_C.max() < images:
        raise ValueError(f"captions of pictures {image_of_C.min()} to {image_of_C.max()}, and there are 0 to {images - 1}")
    right_C = _lowest_if_nan(score_IC[image_of_C, np.arange(captions)])
    text_rank_I, image_rank_C = np.empty(images, np.int64), np.zeros(captions, np.int64)
    for start in range(0, images, _BLOCK):
        block_PC = score_IC[start : start + _BLOCK]
        is_own_PC = image_of_C[None, :] == np.arange(start, start + len(block_PC))[:, None]
        wrong_PC = np.where(np.isnan(block_PC), np.inf, block_PC)
        best_P1 = np.where(is_own_PC, right_C, -np.inf).max(1, initial=-np.inf, keepdims=True)
        text_rank_P = (~is_own_PC & (wrong_PC >= best_P1)).sum(1)
        text_rank_I[start : start + len(block_PC)] = np.where(is_own_PC.any(1), text_rank_P, captions)
        image_rank_C += (~is_own_PC & (wrong_PC >= right_C)).sum(0)
    return text_rank_I, image_rank_C


def _lowest_if_nan(score: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.where(np.isnan(score), -np.inf, score)


def recall(score_IC: ArrayLike, image_of_C: ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """txt_r1 ... img_r10, their mean r_mean and their sum rsum, in percent."""
    text_rank_I, image_rank_C = ranks(score_IC, image_of_C)
    return summary(text_rank_I, image_rank_C, ks)


def summary(text_rank_I: NDArray[np.int64], image_rank_C: NDArray[np.int64], ks: Sequence[int] = KS) -> dict[str, float]:
    found = {f"txt_r{k}": 100 * float((text_rank_I < k).mean()) for k in ks}
    found |= {f"img_r{k}": 100 * float((image_rank_C < k).mean()) for k in ks}
    return found | {"r_mean": float(np.mean(list(found.values()))), "rsum": float(sum(found.values()))}


def recall_in_folds(score_IC: ArrayLike, image_of_C: ArrayLike, folds: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """Mean over consecutive folds of the pictures, each a gallery of its own: COCO's "1K test" is 5,000 pictures in 5 folds."""
    score_IC, image_of_C = np.asarray(score_IC), np.asarray(image_of_C)
    if not 0 < folds <= len(score_IC):
        raise ValueError(f"{folds} folds of {len(score_IC)} pictures")
    parts = []
    for images in np.array_split(np.arange(len(score_IC)), folds):
        captions = np.flatnonzero(np.isin(image_of_C, images))
        parts.append(recall(score_IC[np.ix_(images, captions)], image_of_C[captions] - images[0], ks))
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
