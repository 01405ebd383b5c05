"""Keeps what a test measures of each picture, so that an interrupted test continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torchmetrics import MetricCollection

from lmf.io.colour import to_uint8
from lmf.io.csv import csv_text
from lmf.io.files import write_text
from lmf.io.pictures import write
from lmf.metrics.image import PictureMetric

Record = dict[str, Any]


class RecordsCallback(L.Callback):
    """Writes the values of every picture at once, and leaves out pictures that an interrupted test has measured.

    Each rank writes ``<output>/pictures/set5_x4/baby.json`` after a picture, and ``baby.png`` if pictures are saved. At
    the end the values become one file, ``<output>/pictures.csv``.

    Args:
        output: the run folder.
        identity: of the test, see `lmf.app.identity`; records of another identity are measured again.
        save_images: whether to save the enlarged pictures.
        resume: whether to use the records of an interrupted test.
    """

    def __init__(
        self, output: str | os.PathLike[str], identity: str, save_images: bool = False, resume: bool = True
    ) -> None:
        self.output, self.identity = Path(output), identity
        self.save_images, self.resume = save_images, resume
        self.found: list[dict[str, Record]] = []  # by set and picture

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the records of an interrupted test, before any rank writes one, and leave their pictures out."""
        if stage != "test":
            return
        sets = trainer.datamodule.test_sets  # type: ignore[attr-defined]
        self.found = [self.records(s.name) if self.resume else {} for s in sets]
        if all(len(found) >= len(s) for found, s in zip(self.found, sets, strict=True)):
            next(iter(self.found)).popitem()  # the trainer needs a picture
        for found, pictures in zip(self.found, sets, strict=True):
            pictures.exclude(found)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the records to the metrics of the first rank."""
        if not trainer.is_global_zero:
            return
        for found, groups in zip(self.found, cast(nn.ModuleList, pl_module.metrics), strict=True):
            for collection in cast(nn.ModuleList, groups):
                for name, metric in cast(MetricCollection, collection).items():
                    values = [record[name] for record in found.values()]
                    cast(PictureMetric, metric).add(torch.tensor(values, dtype=torch.float64))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the values of a picture, and before them the picture."""
        if not batch:
            return
        name = trainer.datamodule.test_sets[dataloader_idx].name  # type: ignore[attr-defined]
        path = self.output / "pictures" / name / f"{batch['name']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.save_images:
            write(path.with_name(f"{batch['name']}.png"), to_uint8(outputs["sr"][0]))
        values = {name: value for name, value in outputs["values"].items() if isinstance(value, float)}  # no pictures
        record = {"identity": self.identity, "picture": batch["name"], **values}
        write_text(path, json.dumps(record) + "\n")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Combine the records of all ranks."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        rows = []
        for pictures in trainer.datamodule.test_sets:  # type: ignore[attr-defined]
            for record in self.records(pictures.name).values():
                del record["identity"]
                rows.append({"set": pictures.dataset, "scale": pictures.scale, **record})
        write_text(self.output / "pictures.csv", csv_text(rows))
        for path in (self.output / "pictures").glob("*/*.json"):
            path.unlink()
        for folder in (self.output / "pictures").glob("*"):
            if not any(folder.iterdir()):
                folder.rmdir()
        if not any((self.output / "pictures").iterdir()):
            (self.output / "pictures").rmdir()

    def records(self, name: str) -> dict[str, Record]:
        """Return the records of this test in a set, by picture."""
        return {record["picture"]: record for record in read(self.output / "pictures" / name, self.identity)}


def read(folder: Path, identity: str) -> Iterator[Record]:
    """Yield the records with ``identity`` in ``folder``, sorted by name."""
    for path in sorted(folder.glob("*.json")):
        record: Mapping[str, Any] = json.loads(path.read_text())
        if record.get("identity") == identity:
            yield dict(record)
