"""Tests of runs resumed with other options, and of schedules that count optimiser steps."""

import pytest
import torch

from lmf.app import pipeline
from lmf.training.results import Results

from ..conftest import TINY


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def rate(folder):
    return state(folder)["optimizer_states"][0]["param_groups"][0]["lr"]


@pytest.fixture
def trained(compose, tmp_path):
    """Return a run of two epochs with six steps each."""
    pipeline.run(compose(*TINY))
    return tmp_path / "run"


def test_more_epochs(compose, trained, tmp_path, caplog):
    caplog.set_level("INFO")
    pipeline.run(compose(*TINY, "schedule.epochs=4", "ckpt_path=last", output=trained))
    assert "schedule.epochs from 2 to 4" in caplog.text
    assert state(trained)["global_step"] == 24
    pipeline.run(compose(*TINY, "schedule.epochs=4", output=tmp_path / "whole"))
    assert rate(trained) == pytest.approx(rate(tmp_path / "whole"))


def test_another_rate_applies_and_is_said(compose, tmp_path, caplog):
    caplog.set_level("INFO")
    options = (*TINY, "schedule=paper", "schedule.iterations=3", "schedule.epochs=4")
    first = ("schedule.optimizer.lr=1e-3", "trainer.max_epochs=1")
    pipeline.run(compose(*options, *first))
    pipeline.run(compose(*options, "schedule.optimizer.lr=1e-5", "ckpt_path=last", output=tmp_path / "run"))
    assert rate(tmp_path / "run") == pytest.approx(1e-5)
    assert "schedule.optimizer.lr from 0.001 to 1e-05" in caplog.text


def test_what_a_checkpoint_counts_cannot_change(compose, trained, caplog):
    before = (trained / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "schedule.iterations=7", "ckpt_path=last", output=trained))
    assert "schedule.iterations=7" in caplog.text
    assert (trained / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([], 12),
        (["+trainer.accumulate_grad_batches=2"], 6),
        (["+trainer.accumulate_grad_batches=4"], 4),
        (["+trainer.limit_train_batches=4"], 8),
        (["+trainer.limit_train_batches=0.5", "+trainer.accumulate_grad_batches=2"], 4),
    ],
)
def test_cycles_end_with_training(compose, tmp_path, options, steps):
    pipeline.run(compose(*TINY, *options))
    found = state(tmp_path / "run")
    assert found["global_step"] == steps
    (scheduler,) = found["lr_schedulers"]
    assert (scheduler["total_steps"], scheduler["last_epoch"]) == (steps, steps)
    (group,) = found["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(group["min_lr"])


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_precisions_that_do_not_serve_are_refused(compose, tmp_path, caplog, precision):
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, f"precision={precision}"))
    assert f"precision must be one of 32-true, bf16-mixed, 16-mixed, got {precision}" in caplog.text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_says_so(compose, trained, caplog):
    caplog.set_level("INFO")
    pipeline.run(compose(*TINY, "ckpt_path=last", output=trained))
    assert "finished already after 2 epochs" in caplog.text


def test_training_leaves_its_last_validation_for_sweeps(trained):
    (row,) = Results.load(trained).rows
    assert (row.set, row.scale) == ("bundled", 4)
    assert row.values["psnr"] > 10
    assert row.values["bicubic_psnr"] > 10
