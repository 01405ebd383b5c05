"""Evaluation sets: HR pictures and their LR versions at one scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from lmf import io
from lmf.data.degradations import Array, resize_matlab, resize_pil
from lmf.data.folder import ImageFolder, to_rgb
from lmf.data.settings import LR, DataError, EvalSettings, FileSettings, OnCorrupt
from lmf.data.sources import Source, source_files
from lmf.metrics import Protocol


class EvalSet(Dataset[dict[str, Any]]):
    """A set of HR pictures and their LR versions at one scale.

    If LR is computed, it has h = floor(H / s + 1e-9) rows, and HR is cropped at the bottom to round(h s) rows before
    the reduction; columns likewise (the protocol of LIIF). If LR is stored, HR is cropped to match it.

    Args:
        name: name of the pictures. The set is called ``NAME_xSCALE``.
        source: source of the pictures.
        scale: any number of at least 1.
        protocol: evaluation protocol, ``"div2k"``, ``"benchmark"`` or ``"raw"``; see
            `lmf.metrics.functional.protocol_options`.
        lr: ``"stored"`` reads ``X{scale}/NAMEx{scale}.png`` in the LR folder of the source, and falls back to ``"pil"``
            if there is no such folder. ``"pil"`` and ``"matlab"`` reduce HR with these bicubic filters.
        limit: use at most this many pictures; None uses all.
        crop: side of the central crop in HR pixels; None uses whole pictures.
        cache: see `ImageFolder`.
        on_corrupt: see `ImageFolder`.

    Raises:
        DataError: if files are missing or damaged, a picture is too small for the scale, or a setting is out of range.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        scale: float,
        protocol: Protocol,
        lr: LR = "stored",
        limit: int | None = None,
        crop: int | None = None,
        cache: str | Path | None = None,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        EvalSettings(scales=(scale,), protocol=protocol, lr=lr, limit=limit, crop=crop)  # checks them
        self.dataset, self.scale, self.protocol = name, float(scale), protocol
        self.name = f"{name}_x{scale:g}"
        self.crop, self.faults = crop, source.faults
        source = source.at(scale)
        paths = source_files(source, FileSettings(cache, on_corrupt))
        self.images = ImageFolder(paths, cache, math.ceil(scale), on_corrupt, on_corrupt == "skip", limit)
        self.stored = self._stored(source.lr_folder(scale)) if lr == "stored" else None
        self.reduce = resize_matlab_to if lr == "matlab" else resize_pil

    def _stored(self, folder: Path | None) -> list[Path] | None:
        """Return the stored LR versions of all pictures after checking their sizes; None without a folder."""
        if folder is None:
            return None
        if not folder.is_dir():
            rank_zero_info(f"{self.name}: no folder {folder}, LR images are computed with PIL's bicubic filter")
            return None
        paths = [folder / f"{path.stem}x{self.scale:g}.png" for path in self.images.paths]
        for path, (height, width) in zip(paths, self.images.sizes, strict=True):
            try:
                h, w = io.read_size(path)
            except io.ImageError as error:
                raise DataError(f"{error}; complete the folder {folder} or set lr=pil") from error
            if round(h * self.scale) > height or round(w * self.scale) > width:
                raise DataError(f"LR image {path} ({h} x {w}) times {self.scale:g} exceeds its HR ({height} x {width})")
        return paths

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return picture ``index`` as {"lr": (3, h, w), "hr": (3, H, W), "name": file stem}, float32 in [0, 1]."""
        hr = self.images[index]
        if self.stored is None:
            lr, hr = self._computed(hr)
        else:
            lr, hr = self._paired(to_rgb(io.read(self.stored[index])), hr)
        return {"lr": to_float(lr), "hr": to_float(hr), "name": self.images.paths[index].stem}

    def _computed(self, hr: Array) -> tuple[Array, Array]:
        """Crop ``hr`` (H, W, 3) and compute its LR version; return (lr, hr)."""
        if self.crop is not None:
            top, left = (max(0, n - self.crop) // 2 for n in hr.shape[:2])
            hr = hr[top : top + self.crop, left : left + self.crop]
        h, w = (math.floor(n / self.scale + 1e-9) for n in hr.shape[:2])
        hr = np.ascontiguousarray(hr[: round(h * self.scale), : round(w * self.scale)])
        return self.reduce(hr, (h, w)), hr

    def _paired(self, lr: Array, hr: Array) -> tuple[Array, Array]:
        """Crop a stored ``lr`` (h, w, 3) and ``hr`` (H, W, 3) so that they show the same; return (lr, hr)."""
        if self.crop is not None:
            side = math.floor(self.crop / self.scale + 1e-9)
            top, left = (max(0, n - side) // 2 for n in lr.shape[:2])
            lr = lr[top : top + side, left : left + side]
            hr = hr[round(top * self.scale) :, round(left * self.scale) :]
        return lr, hr[: round(lr.shape[0] * self.scale), : round(lr.shape[1] * self.scale)]


def resize_matlab_to(image: Array, size: tuple[int, int]) -> Array:
    """Call `resize_matlab` with a size."""
    return resize_matlab(image, size=size)


def to_float(image: Array) -> Tensor:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return torch.tensor(image).permute(2, 0, 1).float().contiguous() / 255
