"""``logger=tensorboard`` writes events that TensorBoard reads."""

import csv
import sys

import pytest

from lmf.app import pipeline
from lmf.errors import MissingExtra
from lmf.training.loggers import tensorboard_logger

from ..conftest import TINY

OPTIONS = (*(o for o in TINY if not o.startswith(("logger.", "callbacks.pictures"))), "logger=tensorboard")


def test_events_and_csv(compose, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    few = (*OPTIONS, "trainer.log_every_n_steps=3", "callbacks.pictures.crop=32")
    pipeline.run(compose(*few))
    pipeline.run(compose(*few, "ckpt_path=last", "schedule.epochs=3"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 5, 8, 11, 14, 17]
    psnr = [event.value for event in events.Scalars("val/psnr")]
    rows = [
        row for path in sorted((tmp_path / "run").glob("metrics/*/metrics.csv")) for row in csv.DictReader(path.open())
    ]
    assert psnr == pytest.approx([float(row["val/psnr"]) for row in rows if row.get("val/psnr")])
    assert [event.step for event in events.Images("pictures/bundled_x4/0")] == [6, 12, 18]
    assert {"train/lr", "train/grad_norm", "train/images_s"} <= set(events.Tags()["scalars"])
    assert "schedule.optimizer.lr: 0.001" in (tmp_path / "run" / "tensorboard" / "hparams.yaml").read_text()
    assert not (tmp_path / "run" / "wandb").exists()


def test_csv_alone(compose, tmp_path):
    pipeline.run(compose(*(o for o in OPTIONS if not o.startswith("logger")), "logger=csv", "callbacks.pictures=null"))
    assert (tmp_path / "run" / "metrics" / "version_0" / "metrics.csv").is_file()
    assert not (tmp_path / "run" / "wandb").exists()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lmf\[tensorboard\]'"):
        tensorboard_logger(str(tmp_path))
