import time

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader, Dataset

from lmf.training.callbacks import HealthCallback

DELAY = 0.05


class Recorder(CSVLogger):
    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.seen: list[dict] = []

    def log_metrics(self, metrics, step=None) -> None:
        if "train/lr" in metrics:
            self.seen.append(dict(metrics))


class Slow(Dataset):
    """Every sample takes `DELAY` seconds to load."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        time.sleep(DELAY)
        return {"lr": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))}


class Gradients(Callback):
    """Keeps the norm of all gradients, computed in another way."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        grads = [p.grad.flatten().double() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.cat(grads).square().sum().sqrt().item())


@pytest.fixture
def fit(module, data, make_trainer, tmp_path):
    """Return ``fit(*callbacks, **options)``, which trains for 8 steps of slow samples and returns what was logged."""

    def fitted(*callbacks, **options) -> list[dict]:
        logger = Recorder(tmp_path)
        data.train_dataloader = lambda: DataLoader(Slow(), batch_size=1)
        defaults = {"log_every_n_steps": 2, "limit_val_batches": 0}
        make_trainer(HealthCallback(), *callbacks, logger=logger, **(defaults | options)).fit(module, datamodule=data)
        return logger.seen

    return fitted


def test_values_at_every_interval(fit):
    gradients = Gradients()
    seen = fit(gradients)
    assert len(seen) == 4
    assert [row["train/grad_norm"] for row in seen] == pytest.approx(gradients.norms[1::2], rel=1e-5)
    for row in seen:
        assert row["train/lr"] == pytest.approx(1e-3)
        assert row["train/images_s"] <= 1 / DELAY
        assert row["train/loader_share"] * 2 / row["train/images_s"] >= 2 * DELAY  # seconds of waiting
        assert row["train/loader_share"] < 1
        assert row["memory/process_gib"] == pytest.approx(resident() / 2**30, rel=0.5)


def resident() -> int:
    """Bytes, from another file than the callback reads."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))


def test_validations_do_not_count(fit, module):
    class Pause(Callback):
        def on_validation_batch_end(self, *_) -> None:
            time.sleep(1.0)

    seen = fit(Pause(), limit_val_batches=1, val_check_interval=3)
    assert all(2 / row["train/images_s"] < 1.0 for row in seen)  # seconds of two steps


def test_accumulated_batches_are_one_step(fit):
    gradients = Gradients()
    seen = fit(gradients, accumulate_grad_batches=2)
    assert len(seen) == 2
    assert [row["train/grad_norm"] for row in seen] == pytest.approx(gradients.norms[1::2], rel=1e-5)


def test_a_profiler_of_the_user_stays(fit):
    profiler = SimpleProfiler()
    seen = fit(profiler=profiler)
    assert len(seen) == 4
    assert not any("train/loader_share" in row for row in seen)
    assert profiler.recorded_durations
