"""Logs a table of every picture of a test, with crops."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch

from lmf.errors import UserError
from lmf.training.callbacks.pictures import PicturesCallback, Where, choose_box
from lmf.training.loggers import log_rows
from lmf.training.module import SRModule

Row = dict[str, Any]


class ImagesCallback(L.Callback):
    """Logs the pictures of a test to W&B as the table ``test/images``, with one row per picture.

    Rows have the set, the scale, the name, and ``outputs["values"]``: the metrics of the picture and what other
    callbacks add in their ``on_test_batch_end``. The first pictures of each set have a crop "LR | bicubic | ours | HR"
    as well. The table holds the pictures of all processes, but not those that an interrupted test has measured;
    `lmf.training.callbacks.RecordsCallback` writes all to a file.

    Args:
        crops: number of pictures with a crop, per set and process.
        crop: side of the crop in HR pixels.
        where: position of the crop; see `lmf.training.callbacks.PicturesCallback`.

    Raises:
        UserError: if an option is out of range.
    """

    def __init__(self, crops: int = 8, crop: int = 96, where: Where = "detail") -> None:
        if crops < 0:
            raise UserError(f"crops must not be negative, got {crops}")
        self.crops, self.crop, self.where = crops, crop, where
        self.pictures = PicturesCallback(".", crop=crop, where=where)  # writes nothing here
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
        """Add the row of the picture of ``batch``."""
        if not batch:
            return
        result = cast(SRModule, pl_module).results[dataloader_idx]
        lr, hr, sr = batch["lr"].float(), batch["hr"], outputs["sr"].float()
        row: Row = {"set": result.set, "scale": result.scale, "picture": batch["name"]}
        if batch_idx < self.crops:
            row["crop"], _ = self.pictures.strip(lr, sr, hr, choose_box(hr, self.crop, self.where))
        # Another callback may fill its columns after this one.
        self.rows.append(((dataloader_idx, batch_idx, trainer.global_rank), row, outputs["values"]))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the rows of all processes."""
        rows = gathered([(order, row | others) for order, row, others in self.rows])
        table = [row for _, row in sorted(rows, key=lambda ordered: ordered[0])]
        if table and trainer.is_global_zero:
            log_rows(trainer.loggers, "test/images", table)
        self.rows = []


def gathered(rows: list[Any]) -> list[Any]:
    """Return the rows of all processes. Every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
