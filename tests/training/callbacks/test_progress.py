from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger
from rich import reconfigure

from lmf.training.callbacks import ProgressBar, ValidationCallback
from lmf.training.results import Result


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Print at 80 columns to what pytest captures."""
    monkeypatch.setenv("COLUMNS", "80")
    reconfigure()
    yield
    reconfigure()


def test_the_bar_shows_metrics_but_no_version_number(module, data, make_trainer, tmp_path):
    shown = []

    class Watched(ProgressBar):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            shown.append(self.get_metrics(trainer, pl_module))

    module.training_step = logged(module)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(Watched(), enable_progress_bar=True, logger=logger, log_every_n_steps=1)
    trainer.fit(module, datamodule=data)
    assert logger.version == 0  # which Lightning's bar shows
    assert [set(metrics) for metrics in shown] == [{"train/loss"}]


def logged(module):
    step = module.training_step

    def training_step(batch, batch_idx):
        loss = step(batch, batch_idx)
        module.log("train/loss", loss, prog_bar=True)
        return loss

    return training_step


def test_each_validation_prints_its_sets(module, data, make_trainer, capsys):
    def results():
        rows = zip(module.results, (31.234, 28.0), (30.0, 28.5), strict=True)
        for row, psnr, bicubic in rows:
            row.values = {"psnr": psnr, "bicubic_psnr": bicubic}

    module.on_validation_epoch_start = results
    trainer = make_trainer(ValidationCallback(), max_epochs=2, num_sanity_val_steps=1)
    trainer.fit(module, datamodule=data)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines.count(["set5", "x2", "31.23", "30.00", "+1.23"]) == 2  # not after the sanity check
    assert lines.count(["set5", "x2.5", "28.00", "28.50", "-0.50"]) == 2
    assert ["validation", "after", "step", "4"] in lines
    trainer.validate(module, datamodule=data, verbose=False)
    assert not capsys.readouterr().out


def test_only_rank_zero_prints_and_missing_values_are_empty(capsys):
    module = SimpleNamespace(results=[Result("a_set_with_a_name_that_is_longer_than_a_line" * 2, 2.5, 1, "raw")])
    for rank_zero in (False, True):
        trainer = SimpleNamespace(
            is_global_zero=rank_zero, state=SimpleNamespace(fn="fit"), sanity_checking=False, global_step=1
        )
        ValidationCallback().on_validation_end(trainer, module)
        out = capsys.readouterr().out
        assert bool(out) is rank_zero
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "x2.5" in out
