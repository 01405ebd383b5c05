"""Saves crops of LR, bicubic, model output and HR side by side after validations."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.errors import UserError, did_you_mean
from lmf.io.colour import from_network, to_network, to_uint8
from lmf.io.files import replacing
from lmf.metrics import psnr
from lmf.model import SRModel
from lmf.training.loggers import log_pictures

Where = Literal["detail", "centre"]
Box = tuple[tuple[int, int], tuple[int, int]]

_GAP, _LABEL, _SIDE = 6, 20, 288  # pixels between crops, of the line of text above them, and of a side at least


class PicturesCallback(L.Callback):
    """Saves strips "LR | bicubic | ours | HR" of a crop of validation pictures.

    The files are called ``<output>/pictures/epoch0003_set5_x4_baby.png``. W&B and TensorBoard receive the strips as
    ``pictures/set5_x4`` and show them with a slider over the steps. Only global rank zero saves strips, of the pictures
    that it evaluates. The ``validation_step`` of the module must return ``{"sr": (1, 3, H, W)}`` in [0, 1], and batches
    must have ``lr``, ``hr`` and ``name``.

    Args:
        output: the run folder.
        sets: names of validation sets; None uses all.
        images: number of strips per set.
        crop: side of the crop in HR pixels. Smaller pictures are shown whole.
        where: position of the crop, ``"detail"`` (where HR has the strongest gradients) or ``"centre"``.
        every: save strips after every n-th validation, starting with the first.

    Raises:
        UserError: if an option is out of range or, in `setup`, a set does not exist.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        sets: Sequence[str] | None = None,
        images: int = 2,
        crop: int = 96,
        where: Where = "detail",
        every: int = 1,
    ) -> None:
        if min(images, crop, every) < 1:
            raise UserError(f"images, crop and every must be at least 1, got {images}, {crop} and {every}")
        if where not in get_args(Where):
            raise UserError(f"where must be one of {get_args(Where)}, got {where!r}")
        self.folder = Path(output) / "pictures"
        self.sets = None if sets is None else list(sets)
        self.images, self.crop, self.where, self.every = images, crop, where, every
        self.bicubic = SRModel(Identity(), Bicubic())
        self.validations = 0
        self.strips: dict[str, list[tuple[Image.Image, str]]] = {}  # by set: strips and captions of this validation

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the names of the sets."""
        if stage in ("fit", "validate"):
            known = [s.name for s in trainer.datamodule.val_sets]  # type: ignore[attr-defined]
            unknown = [name for name in self.sets or () if name not in known]
            if unknown:
                similar = did_you_mean(unknown, known)
                raise UserError(f"sets must be some of {', '.join(known)}, got {', '.join(unknown)}{similar}")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Save the strip of a picture."""
        if trainer.sanity_checking or not trainer.is_global_zero or self.validations % self.every or not batch:
            return
        name = trainer.datamodule.val_sets[dataloader_idx].name  # type: ignore[attr-defined]
        strips = self.strips.setdefault(name, [])
        if len(strips) >= self.images or (self.sets is not None and name not in self.sets):
            return
        lr, hr, sr = batch["lr"].float(), batch["hr"], outputs["sr"].float()
        box = choose_box(hr, self.crop, self.where)
        strip, caption = self.strip(lr, sr, hr, box)
        caption = f"{batch['name']}: {caption}"
        save_png(strip, self.folder / f"epoch{trainer.current_epoch:04d}_{name}_{Path(batch['name']).name}.png")
        strips.append((strip, caption))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the strips."""
        if trainer.sanity_checking:
            return
        for name, strips in self.strips.items():
            if strips:
                pictures, captions = zip(*strips, strict=True)
                log_pictures(trainer.loggers, f"pictures/{name}", pictures, captions, trainer.global_step)
        self.strips.clear()
        self.validations += 1

    @torch.no_grad()
    def strip(self, lr: Tensor, sr: Tensor, hr: Tensor, box: Box) -> tuple[Image.Image, str]:
        """Draw the strip of a crop.

        Args:
            lr: (1, 3, h, w) in [0, 1].
            sr: (1, 3, H, W) output of the model in [0, 1].
            hr: (1, 3, H, W) in [0, 1].
            box: rows and columns of the crop in HR pixels, half-open ranges.

        Returns:
            The strip and a caption with its labels.
        """
        rows, cols = (slice(*side) for side in box)
        size = (hr.shape[-2], hr.shape[-1])
        bicubic = from_network(self.bicubic.prepare(to_network(lr), size).crop(*box).render())
        truth = hr[..., rows, cols]
        crops = {
            "LR": F.interpolate(lr, size, mode="nearest-exact")[..., rows, cols],
            "bicubic": bicubic,
            "ours": sr[..., rows, cols],
            "HR": truth,
        }
        labels = [
            f"{label} {psnr(x, truth).item():.2f} dB" if label in ("bicubic", "ours") else label
            for label, x in crops.items()
        ]
        return draw(list(crops.values()), labels), f"{' | '.join(labels)} (PSNR of this crop)"


def choose_box(hr: Tensor, crop: int, where: Where) -> Box:
    """Choose a crop of at most ``crop`` x ``crop`` pixels.

    Args:
        hr: (1, 3, H, W).
        crop: side of the crop in pixels.
        where: see `PicturesCallback`.

    Returns:
        Half-open ranges of rows and columns.
    """
    size = (hr.shape[-2], hr.shape[-1])
    h, w = (min(crop, n) for n in size)
    top, left = ((n - k) // 2 for n, k in zip(size, (h, w), strict=True))
    if where == "detail":
        grey = F.pad(hr.float().mean(dim=1, keepdim=True), (0, 1, 0, 1), mode="replicate")
        gradient = grey.diff(dim=-1)[..., :-1, :].abs() + grey.diff(dim=-2)[..., :-1].abs()  # (1, 1, H, W)
        step = max(1, crop // 4)
        detail = F.avg_pool2d(gradient, (h, w), stride=step)[0, 0]
        index = int(detail.argmax())
        top, left = index // detail.shape[1] * step, index % detail.shape[1] * step
    return (top, top + h), (left, left + w)


def draw(crops: Sequence[Tensor], labels: Sequence[str]) -> Image.Image:
    """Draw ``crops`` (1, 3, h, w) in [0, 1] side by side on white, each below its label.

    Small crops are shown with several screen pixels for each of their pixels, so that the larger side has at least
    `_SIDE`.
    """
    times = max(1, math.ceil(_SIDE / max(crops[0].shape[-2:])))
    h, w = (times * n for n in crops[0].shape[-2:])
    out = Image.new("RGB", (len(crops) * (w + _GAP) - _GAP, h + _LABEL), "white")
    pen = ImageDraw.Draw(out)
    font = ImageFont.load_default(size=_LABEL - 6)
    for i, (crop, label) in enumerate(zip(crops, labels, strict=True)):
        pen.text((i * (w + _GAP), 1), label, fill="black", font=font)
        out.paste(to_pil(crop[0]).resize((w, h), Image.Resampling.NEAREST), (i * (w + _GAP), _LABEL))
    return out


def to_pil(rgb: Tensor) -> Image.Image:
    """Convert ``rgb`` (3, H, W) in [0, 1] to 8 bits. Values outside are clamped."""
    return Image.fromarray(to_uint8(rgb))


def save_png(picture: Image.Image, path: Path) -> None:
    """Write ``picture`` as a PNG to ``path`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
