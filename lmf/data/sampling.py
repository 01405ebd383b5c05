"""Training samples as in LIIF, section 4: a random scale, a random crop and random target pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lmf.data.degradations import Array, resize_pil
from lmf.data.folder import ImageFolder
from lmf.data.graphics import draw
from lmf.data.settings import DataError, Sampling


class TrainSamples:
    """An endless list of training samples, in which sample n is a pure function of (seed, n).

    A sample consists of a crop of an image, its PIL-bicubic reduction to ``patch`` x ``patch`` pixels, and ``queries``
    target pixels of the crop. The scale s is uniform in [min_scale, max_scale], and the side of the crop is
    round(patch * s). Every pass over the images has a new random order. Targets repeat only if the crop has too few
    pixels. A share of the samples is drawn instead of cut from an image.

    `__getitems__` returns a batch of uint8 colours and pixel numbers, which is small. `lmf.data.BatchAugment` converts
    it to floats and coordinates on the device and flips it.

    Args:
        images: the HR images, all at least ``crop_size(patch, max_scale)`` pixels high and wide.
        seed: any integer of at least 0.
        sampling: patch, queries, scales and share of graphics.
    """

    def __init__(self, images: ImageFolder, seed: int, sampling: Sampling) -> None:
        self.images, self.seed, self.sampling = images, seed, sampling

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Return samples ``numbers`` as one batch.

        Returns:
            Dictionary of

            - lr: uint8 (B, 3, p, p).
            - target: uint8 (B, Q, 3), the colours of the target pixels.
            - pixel: int64 (B, Q), row-major numbers of the target pixels in the crop.
            - crop: int64 (B,), the side of each HR crop in pixels.
            - flip: bool (B, 3), whether to flip vertically, flip horizontally and transpose, in this order.
            - drawn: bool (B,), whether the crop is a graphic, only if some are.

            If a sample cannot be created, the `DataError`. The main process raises it, because an exception from a
            worker would be wrapped in the worker's traceback.
        """
        try:
            samples = [self.sample(number) for number in numbers]
        except DataError as error:
            return error
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        batch["lr"] = batch["lr"].permute(0, 3, 1, 2).contiguous()
        return batch

    def sample(self, number: int) -> dict[str, Array]:
        """Return sample ``number``: the entries of `__getitems__` without B, ``lr`` channels-last."""
        rng = np.random.default_rng((0, self.seed, number))
        count = len(self.images)
        image = self.images[int(permutation(self.seed, number // count, count)[number % count])]
        patch, queries = self.sampling.patch, self.sampling.queries
        side = crop_size(patch, rng.uniform(self.sampling.min_scale, self.sampling.max_scale))
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        crop = np.ascontiguousarray(image[top : top + side, left : left + side])
        pixel = choose(rng, side * side, queries)
        flip = rng.integers(2, size=3).astype(bool)
        extra: dict[str, Array] = {}
        if self.sampling.graphics:
            rng = np.random.default_rng((3, self.seed, number))
            extra["drawn"] = np.array(rng.random() < self.sampling.graphics)
            if extra["drawn"]:
                crop = draw_crop(rng, side, patch)
        return {
            "lr": resize_pil(crop, (patch, patch)),
            "target": crop.reshape(-1, 3)[pixel],
            "pixel": pixel,
            "crop": np.array(side),
            "flip": flip,
            **extra,
        }


def draw_crop(rng: np.random.Generator, side: int, patch: int) -> Array:
    """Draw a square graphic whose letters and lines have usual sizes in its LR picture or in a larger one.

    Half of the graphics are made for the LR picture, so that details of a single LR pixel occur. The others are made
    for a size between those of the LR and the HR picture.

    Args:
        rng: the source of all choices.
        side: height and width of the graphic in pixels.
        patch: height and width of the LR picture.

    Returns:
        uint8 (side, side, 3).
    """
    reduction = max(1.0, side / patch)
    if rng.random() < 0.5:
        reduction = rng.uniform(1, reduction)
    small = max(16, round(side / reduction))
    return draw(rng, small, small, scale=side / small)


def crop_size(patch: int, scale: float) -> int:
    """Return the side of the HR crop that is reduced to an LR patch of ``patch`` pixels at ``scale``."""
    return max(1, round(patch * scale))


def choose(rng: np.random.Generator, count: int, queries: int) -> Array:
    """Draw ``queries`` of the numbers 0 .. ``count`` - 1, int64 (queries,).

    Numbers repeat only if there are too few. Their frequencies then differ by at most one.
    """
    whole, rest = divmod(queries, count)
    return np.concatenate([np.tile(np.arange(count), whole), rng.choice(count, rest, replace=False, shuffle=False)])


@lru_cache(maxsize=4)
def permutation(seed: int, turn: int, count: int) -> Array:
    """Return the order of ``count`` images in pass number ``turn``, int64 (count,)."""
    return np.random.default_rng((1, seed, turn)).permutation(count)
