"""The field's training samples (LIIF, section 4): random scale, random crop, random pixels as targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lmf.data.degradations import resize_pil
from lmf.data.folder import DataError, ImageFolder


class TrainSamples:
    """An endless list of training samples; sample n is a pure function of (seed, n).

    Sample n takes image ``order[n]``, where every pass over the folder is a fresh permutation; a scale s uniform in
    [min_scale, max_scale]; a crop of round(patch * s) pixels; its PIL-bicubic reduction to patch x patch; and
    ``queries`` pixels of the crop, without repetition as long as the crop has enough.

    `__getitems__` gives a whole batch, small enough to be cheap to move: uint8 colours and pixel numbers. What a
    network is fed (floats, coordinates, flips) is made of it on the device by `lmf.data.augment.BatchAugment`.

    Args:
        images: the HR images, all at least `crop_size(max_scale)` on both sides.
        seed: any whole number.
        patch: side of the LR patch in pixels.
        queries: number of target pixels per sample.
        min_scale, max_scale: range of scales.
    """

    def __init__(
        self, images: ImageFolder, seed: int, patch: int, queries: int, min_scale: float, max_scale: float
    ) -> None:
        self.images, self.seed = images, seed
        self.patch, self.queries = patch, queries
        self.min_scale, self.max_scale = min_scale, max_scale
        check_sampling(patch, queries, min_scale, max_scale)

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any] | DataError:
        """Samples ``numbers`` as one batch.

        Returns:
            lr: uint8 (B, 3, p, p).
            target: uint8 (B, Q, 3).
            pixel: int64 (B, Q), the target pixels as row-major numbers in the crop.
            crop: int64 (B,), the side of each HR crop.
            flip: bool (B, 3): flip vertically, flip horizontally, transpose; to be done in this order.

            Or the `DataError` that stopped it, for the main process to raise: raised in a worker it would arrive
            wrapped in the worker's traceback.
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
        side = crop_size(self.patch, rng.uniform(self.min_scale, self.max_scale))
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
        crop = np.ascontiguousarray(image[top : top + side, left : left + side])
        pixel = choose(rng, side * side, self.queries)
        return {
            "lr": resize_pil(crop, (self.patch, self.patch)),
            "target": crop.reshape(-1, 3)[pixel],
            "pixel": pixel,
            "crop": np.array(side),
            "flip": rng.integers(2, size=3).astype(bool),
        }


def crop_size(patch: int, scale: float) -> int:
    """Side of the HR crop that becomes an LR patch of ``patch`` pixels at ``scale``."""
    return max(1, round(patch * scale))


def choose(rng: np.random.Generator, count: int, queries: int) -> np.ndarray:
    """``queries`` of the numbers 0 .. ``count`` - 1, each at most once more often than any other needs to be."""
    whole, rest = divmod(queries, count)
    return np.concatenate([np.tile(np.arange(count), whole), rng.choice(count, rest, replace=False, shuffle=False)])


def check_sampling(patch: int, queries: int, min_scale: float, max_scale: float) -> None:
    """Raises `DataError` for settings no sample can be made with."""
    if patch < 1 or queries < 1:
        raise DataError(f"patch and queries must be at least 1, got {patch} and {queries}")
    if not 0 < min_scale <= max_scale < float("inf"):
        raise DataError(f"scales must satisfy 0 < min_scale <= max_scale, got {min_scale} and {max_scale}")


@lru_cache(maxsize=4)
def permutation(seed: int, turn: int, count: int) -> np.ndarray:
    """The order of ``count`` images in pass number ``turn`` over the folder."""
    return np.random.default_rng((1, seed, turn)).permutation(count)
