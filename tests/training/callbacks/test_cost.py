import csv

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lmf.benchmark.cost import CONVENTION, Latency, count
from lmf.training.callbacks import CostCallback, PicturesCallback
from lmf.training.callbacks.cost import worst


class Recorder(CSVLogger):
    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.seen: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None) -> None:
        if any(key.startswith("cost/") for key in metrics):
            self.seen.append((step, dict(metrics)))


@pytest.fixture
def callback() -> CostCallback:
    return CostCallback(lr_size=[8, 12], scales=[2, 2.5], repeats=1)


def test_logs_everything_once_per_fit_and_prints_the_convention(callback, module, data, make_trainer, tmp_path, capsys):
    logger = Recorder(tmp_path)
    make_trainer(callback, logger=logger).fit(module, datamodule=data)
    ((step, values),) = logger.seen
    assert step == 0
    expected = {"cost/params_encoder", "cost/params_decoder"}
    for scale in ("2", "2.5"):
        names = [f"{stage}_{unit}" for stage in ("encoder", "latent", "render") for unit in ("macs", "s")]
        expected |= {f"cost/x{scale}/{name}" for name in [*names, "total_s"]}
    assert set(values) - {"cost/x2/peak_bytes", "cost/x2.5/peak_bytes"} == expected
    cost = count(module.model, (8, 12), scale=2.5)
    assert values["cost/x2.5/render_macs"] == cost.render_macs
    assert values["cost/params_decoder"] == 1283
    assert values["cost/x2/total_s"] > 0
    text = " ".join(capsys.readouterr().out.split())
    assert CONVENTION in text
    assert "EDSR + LIIF" in text


def test_every_validation_and_test(module, data, make_trainer, tmp_path):
    logger = Recorder(tmp_path)
    callback = CostCallback(lr_size=[8, 12], scales=[2], every="validation", repeats=1)
    trainer = make_trainer(callback, logger=logger, max_epochs=2, num_sanity_val_steps=1)
    module.scores = iter([1.0] * 3)
    trainer.fit(module, datamodule=data)
    assert [step for step, _ in logger.seen] == [2, 4]
    trainer.test(module, datamodule=data, verbose=False)
    assert len(logger.seen) == 3


def test_only_before_a_test_and_beside_its_results(module, data, make_trainer, tmp_path):
    logger = Recorder(tmp_path)
    callback = CostCallback(lr_size=[8, 12], scales=[2], every="test", results=True, repeats=1)
    trainer = make_trainer(callback, logger=logger)
    trainer.fit(module, datamodule=data)
    assert not logger.seen
    trainer.test(module, datamodule=data, verbose=False)
    assert len(logger.seen) == 1
    measured, beyond = module.results
    macs = count(module.model, (8, 12), scale=2).decoder_macs
    assert measured.values.pop("decoder_gmacs") == pytest.approx(macs / 1e9)
    assert measured.values.pop("decoder_s") > 0
    assert measured.values.pop("peak_mib", 0) >= 0  # where the system reports it
    assert not measured.values
    assert not beyond.values  # x2.5 is not among the scales


def test_training_is_the_same_with_and_without(callback, data, make_trainer):
    from tests.training.callbacks.conftest import Module

    weights = []
    for callbacks in ([], [callback]):
        L.seed_everything(1, verbose=False)
        module = Module()
        make_trainer(*callbacks).fit(module, datamodule=data)
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


def test_the_worst_of_all_processes():
    class Strategy:
        def reduce(self, tensor, reduce_op):
            assert reduce_op == "max"
            return torch.maximum(tensor, torch.tensor([0.5, 0.1, 0.25, 1.0, 64.0]))

    class Trainer:
        strategy = Strategy()

    own = Latency(0.25, 0.5, 0.25, 2.0, 32, repeats=3, device="cpu")
    assert worst(own, Trainer(), torch.device("cpu")) == Latency(0.5, 0.5, 0.25, 2.0, 64, repeats=3, device="cpu")


def test_errors():
    with pytest.raises(ValueError, match=r"every must be one of .* got 'epoch'"):
        CostCallback(every="epoch")
    with pytest.raises(ValueError, match=r"scales not empty, got .* and \[\]"):
        CostCallback(scales=[])


@pytest.mark.ddp
def test_two_processes_log_once_and_show_the_first_ones_pictures(callback, module, data, make_trainer, tmp_path):
    logger = CSVLogger(tmp_path, name="metrics")
    callbacks = callback, PicturesCallback(tmp_path, images=3)
    make_trainer(*callbacks, logger=logger, devices=2, strategy="ddp_spawn").fit(module, datamodule=data)
    (path,) = tmp_path.glob("metrics/version_*/metrics.csv")
    rows = list(csv.DictReader(path.open()))
    assert sum(bool(row["cost/x2/total_s"]) for row in rows) == 1
    assert float(next(row for row in rows if row["cost/x2/total_s"])["cost/x2/render_macs"]) > 0
    shown = {p.name for p in (tmp_path / "pictures").iterdir()}
    assert shown == {f"epoch0000_{s}_{n}.png" for s in ("set5_x2", "set5_x2.5") for n in ("baby", "head")}
