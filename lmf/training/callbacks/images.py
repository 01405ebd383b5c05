"""Writes a table of every picture of a test, with crops."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from PIL import Image

from lmf.errors import UserError
from lmf.io.colour import from_network, to_network
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.metrics import Protocol, psnr, ssim
from lmf.metrics.functional import protocol_options
from lmf.training.callbacks.pictures import PicturesCallback, Where, choose_box
from lmf.training.loggers import log_rows
from lmf.training.module import SRModule

Row = dict[str, Any]


class ImagesCallback(L.Callback):
    """Measures every picture of a test and writes ``images.csv`` and ``images.json``, with one row per picture.

    Rows have the set, the scale, the name, PSNR, SSIM and bicubic PSNR by the protocol of the set, and what other
    callbacks add to ``outputs["values"]`` of their ``on_test_batch_end``. W&B receives the rows of all processes as the
    table ``test/images``. There, the first pictures of each set have a crop "LR | bicubic | ours | HR" as well.

    Args:
        output: the run folder.
        crops: number of pictures with a crop, per set and process.
        crop: side of the crop in HR pixels.
        where: position of the crop; see `lmf.training.callbacks.PicturesCallback`.

    Raises:
        UserError: if an option is out of range.
    """

    def __init__(self, output: str | os.PathLike[str], crops: int = 8, crop: int = 96, where: Where = "detail") -> None:
        if crops < 0:
            raise UserError(f"crops must not be negative, got {crops}")
        self.output = Path(output)
        self.crops, self.crop, self.where = crops, crop, where
        self.pictures = PicturesCallback(output, crop=crop, where=where)
        self.rows: list[tuple[tuple[int, int, int], Row, Row]] = []  # order, own columns, those of other callbacks

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the rows of an earlier test."""
        self.rows = []

    @torch.inference_mode()
    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the picture of ``batch``."""
        if not batch:
            return
        result = cast(SRModule, pl_module).results[dataloader_idx]
        lr, hr, sr = batch["lr"].float(), batch["hr"], outputs["sr"].float()
        bicubic = from_network(self.pictures.bicubic.render(to_network(lr), (hr.shape[-2], hr.shape[-1])))
        space, shave = protocol_options(cast(Protocol, result.protocol), result.scale)
        row: Row = {
            "set": result.set,
            "scale": result.scale,
            "image": Path(batch["name"]).name,
            "psnr": psnr(sr, hr, space=space, shave=shave).item(),
            "ssim": ssim(sr, hr, space=space, shave=shave).item(),
            "bicubic_psnr": psnr(bicubic, hr, space=space, shave=shave).item(),
        }
        if batch_idx < self.crops:
            row["crop"], _ = self.pictures.strip(lr, sr, hr, choose_box(hr, self.crop, self.where))
        # Another callback may fill its columns after this one.
        self.rows.append(((dataloader_idx, batch_idx, trainer.global_rank), row, outputs.setdefault("values", {})))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and log the rows of all processes."""
        rows = gathered([(order, row | others) for order, row, others in self.rows])
        table = [row for _, row in sorted(rows, key=lambda ordered: ordered[0])]
        if table and trainer.is_global_zero:
            numbers = [{k: v for k, v in row.items() if not isinstance(v, Image.Image)} for row in table]
            self.output.mkdir(parents=True, exist_ok=True)
            write_text(self.output / "images.csv", csv_text(numbers))
            write_text(self.output / "images.json", json.dumps(numbers, indent=1) + "\n")
            log_rows(trainer.loggers, "test/images", table)
        self.rows = []


def gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes. Every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
