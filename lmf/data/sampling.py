"""The field's training samples (LIIF, section 4): random scale, random crop, random pixels as targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lmf.data.degradations import resize_pil
from lmf.data.folder import ImageFolder
from lmf.data.settings import DataError, Sampling


class TrainSamples:
    """An endless list of training samples; sample n is a pure function of (seed, n).

    Sample n takes image ``order[n]``, where every pass over the folder is a fresh permutation; a scale s uniform in
    [min_scale, max_scale]; a crop of round(patch * s) pixels; its PIL-bicubic reduction to patch x patch; and
    ``queries`` pixels of the crop, without repetition as long as the crop has enough.

    `__getitems__` returns a whole batch of uint8 colours and pixel numbers, which is cheap to move.
    `lmf.data.BatchAugment` turns it into floats and coordinates on the device, and flips it.

    Args:
        images: the HR images, all at least ``crop_size(patch, max_scale)`` on both sides.
        seed: any whole number.
        sampling: patch, queries and scales.
    """

    def __init__(self, images: ImageFolder, seed: int, sampling: Sampling) -> None:
        self.images, self.seed, self.sampling = images, seed, sampling

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Samples ``numbers`` as one batch.

        Returns:
            lr: uint8 (B, 3, p, p).
            target: uint8 (B, Q, 3).
            pixel: int64 (B, Q), the target pixels as row-major numbers in the crop.
            crop: int64 (B,), the side of each HR crop.
            flip: bool (B, 3): flip vertically, flip horizontally, transpose; to be done in this order.

            If a sample cannot be made, the `DataError` that says why. The main process raises it, because an
            exception raised in a worker would arrive wrapped in the worker's traceback.
        """
        try:
            samples = [self.sample(number) for number in numbers]
        except DataError as error:
            return error
        batch = {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}
        batch["lr"] = batch["lr"].permute(0, 3, 1, 2).contiguous()
        return batch

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Sample ``number``: the entries of `__getitems__` without B, ``lr`` channels-last."""
        rng = np.random.default_rng((0, self.seed, number))
        count = len(self.images)
        image = self.images[int(permutation(self.seed, number // count, count)[number % count])]
        patch, queries = self.sampling.patch, self.sampling.queries
        side = crop_size(patch, rng.uniform(self.sampling.min_scale, self.sampling.max_scale))
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        crop = np.ascontiguousarray(image[top : top + side, left : left + side])
        pixel = choose(rng, side * side, queries)
        return {
            "lr": resize_pil(crop, (patch, patch)),
            "target": crop.reshape(-1, 3)[pixel],
            "pixel": pixel,
            "crop": np.array(side),
            "flip": rng.integers(2, size=3).astype(bool),
        }


def crop_size(patch: int, scale: float) -> int:
    """Side of the HR crop that becomes an LR patch of ``patch`` pixels at ``scale``."""
    return max(1, round(patch * scale))


def choose(rng: np.random.Generator, count: int, queries: int) -> np.ndarray:
    """Draws ``queries`` of the numbers 0 .. ``count`` - 1, none more than once oftener than another."""
    whole, rest = divmod(queries, count)
    return np.concatenate([np.tile(np.arange(count), whole), rng.choice(count, rest, replace=False, shuffle=False)])


@lru_cache(maxsize=4)
def permutation(seed: int, turn: int, count: int) -> np.ndarray:
    """The order of ``count`` images in pass number ``turn`` over the folder."""
    return np.random.default_rng((1, seed, turn)).permutation(count)
