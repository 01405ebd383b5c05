import pytest
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lmf.training.callbacks import ImagesCallback, images


@pytest.fixture
def logged(monkeypatch):
    tables = []
    monkeypatch.setattr(images, "log_rows", lambda loggers, key, rows: tables.append((key, rows)))
    return tables


@pytest.fixture
def module(module, monkeypatch):
    """A module that gives the first picture of a set 20 dB, the next 21 dB, ..."""
    step = module.test_step

    def test_step(batch, batch_idx, dataloader_idx=0):
        return {**step(batch, batch_idx, dataloader_idx), "values": {"psnr": 20.0 + batch_idx}}

    monkeypatch.setattr(module, "test_step", test_step)
    return module


class Others(Callback):
    """Adds a column after the callback under test has seen the picture."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        outputs["values"].update(rendered_share=0.5, levels=Image.new("RGB", (2, 2)))


def test_one_row_per_picture(module, data, make_trainer, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(ImagesCallback(crops=1, crop=16), Others())
    trainer.test(module, datamodule=data, verbose=False)
    ((key, rows),) = logged
    assert key == "test/images"
    assert [(row["set"], row["scale"], row["picture"]) for row in rows] == [
        ("set5", scale, name) for scale in (2.0, 2.5) for name in ("baby", "bird", "head")
    ]
    assert [row["psnr"] for row in rows] == [20.0, 21.0, 22.0] * 2
    assert all(row["rendered_share"] == 0.5 for row in rows)
    assert [isinstance(row.get("crop"), Image.Image) for row in rows] == [True, False, False] * 2
    assert all(isinstance(row["levels"], Image.Image) for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_second_test_starts_anew(module, data, make_trainer, logged):
    trainer = make_trainer(ImagesCallback(crops=0))
    for _ in range(2):
        trainer.test(module, datamodule=data, verbose=False)
    assert [len(rows) for _, rows in logged] == [6, 6]


def test_errors():
    with pytest.raises(ValueError, match="crops must not be negative, got -1"):
        ImagesCallback(crops=-1)
