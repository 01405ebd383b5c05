import csv
import json
import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lmf.training.callbacks import ImagesCallback, images


@pytest.fixture
def logged(monkeypatch):
    tables = []
    monkeypatch.setattr(images, "log_rows", lambda loggers, key, rows: tables.append((key, rows)))
    return tables


class Others(Callback):
    """Adds a column after the callback under test has seen the picture."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        outputs.setdefault("values", {}).update(rendered_share=0.5, levels=Image.new("RGB", (2, 2)))


def test_one_row_per_picture(module, data, make_trainer, tmp_path, logged):
    trainer = make_trainer(ImagesCallback(tmp_path, crops=1, crop=16), Others())
    trainer.test(module, datamodule=data, verbose=False)
    rows = json.loads((tmp_path / "images.json").read_text())
    assert [(row["set"], row["scale"], row["image"]) for row in rows] == [
        ("set5", scale, name) for scale in (2.0, 2.5) for name in ("baby", "bird", "head")
    ]
    with torch.inference_mode():
        for row, item in zip(rows, [item for s in data.test_sets for item in s.items], strict=True):
            sr = (module.model.render(item["lr"][None] * 2 - 1, item["hr"].shape[-2:]) / 2 + 0.5).clamp(0, 1)[0]
            error = (sr - item["hr"]).double().square().mean().item()  # the protocol raw
            assert row["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-5)
            assert -1 < row["ssim"] < 1
            assert row["rendered_share"] == 0.5
    with (tmp_path / "images.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [row["psnr"] for row in rows]
    ((key, table),) = logged
    assert key == "test/images"
    assert [isinstance(row.get("crop"), Image.Image) for row in table] == [True, False, False] * 2
    assert all(isinstance(row["levels"], Image.Image) for row in table)
    assert not {"crop", "levels"} & rows[0].keys()


def test_a_second_test_starts_anew(module, data, make_trainer, tmp_path, logged):
    trainer = make_trainer(ImagesCallback(tmp_path, crops=0))
    for _ in range(2):
        trainer.test(module, datamodule=data, verbose=False)
    assert [len(rows) for _, rows in logged] == [6, 6]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="crops must not be negative, got -1"):
        ImagesCallback(tmp_path, crops=-1)
