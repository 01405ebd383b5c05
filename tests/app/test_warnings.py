"""Warnings of libraries that a user cannot act on are silent in tasks, all others are shown."""

import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, model_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from lmf.app.tasks.trainer import quieten


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/psnr", 30.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def loader():
    return DataLoader(torch.rand(4, 2), batch_size=2)


def trainer(folder, *callbacks, **options):
    defaults = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), logger=False, **(defaults | options))


def full_folder(folder):
    (folder / "best.ckpt").touch()
    trainer(folder, ModelCheckpoint(folder)).fit(Module(), loader())


def few_batches(folder):
    logger = L.pytorch.loggers.CSVLogger(folder)
    L.Trainer(default_root_dir=folder, logger=logger, accelerator="cpu", max_epochs=1, enable_progress_bar=False,
              enable_model_summary=False, enable_checkpointing=False).fit(Module(), loader())  # fmt: skip


def frozen_part(folder):
    module = Module()
    module.layer.eval()
    trainer(folder, enable_checkpointing=False).fit(module, loader())


def checkpoint_before_validation(folder, monitor="val/psnr"):
    saver = ModelCheckpoint(folder, monitor=monitor, save_on_train_epoch_end=True)
    trainer(folder, saver, num_sanity_val_steps=0, check_val_every_n_epoch=2).fit(Module(), loader(), loader())


def many_workers(folder):
    DataLoader(torch.rand(4, 2), num_workers=1000)


def mesh(folder):
    torch.meshgrid(torch.arange(2), torch.arange(2))


CASES = {
    full_folder: "exists and is not empty",
    few_batches: "smaller than the logging interval",
    frozen_part: "in eval mode",
    checkpoint_before_validation: "could not find the monitored key",
    many_workers: "worker processes in total",
    mesh: "torch.meshgrid",
}


@pytest.mark.parametrize(("cause", "text"), CASES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_warnings_without_a_remedy_are_silent(cause, text, tmp_path):
    for quiet in (False, True):
        folder = tmp_path / str(quiet)
        folder.mkdir()
        model_checkpoint.warning_cache.clear()  # Lightning gives some warnings once
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if quiet:
                quieten()
            cause(folder)
            warnings.warn("another warning", stacklevel=1)
        messages = [str(warning.message) for warning in found]
        assert any(text in message for message in messages) is not quiet
        assert "another warning" in messages


def test_a_monitor_that_is_never_logged_is_still_reported(tmp_path):
    model_checkpoint.warning_cache.clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        quieten()
        checkpoint_before_validation(tmp_path, monitor="train/nothing")
    assert any("train/nothing" in str(warning.message) for warning in found)
