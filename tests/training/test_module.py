import json
import os
import re
import subprocess
import sys
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from lmf import SRModel
from lmf.app import pipeline
from lmf.data.evaluation import EvalSet
from lmf.data.loader import eval_loader
from lmf.data.sources import Folder
from lmf.decoders import LIIF
from lmf.encoders import EDSR
from lmf.training.module import SRModule

from ..conftest import ROOT, TINY


@pytest.fixture
def folder(tmp_path):
    """Return a folder of three pictures whose name contains special characters."""
    folder = tmp_path / "odd_x9"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(random.integers(0, 256, (30 + i, 36, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def module() -> SRModule:
    torch.manual_seed(0)
    return SRModule(SRModel(EDSR(out_channels=8, blocks=1), LIIF(8, hidden=[16])))


class Data(L.LightningDataModule):
    """Return a datamodule with validation at x3 and tests at x2 and x2.5."""

    def __init__(self, folder) -> None:
        super().__init__()
        found = [EvalSet("odd_x9", Folder(folder), scale=s, protocol="raw", lr="pil") for s in (3, 2, 2.5)]
        self.val_sets, self.test_sets = found[:1], found[1:]

    def val_dataloader(self) -> list[DataLoader]:
        return [eval_loader(images) for images in self.val_sets]

    def test_dataloader(self) -> list[DataLoader]:
        return [eval_loader(images) for images in self.test_sets]


class Recorder(CSVLogger):
    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.seen: dict[str, float] = {}

    def log_metrics(self, metrics, step=None) -> None:
        self.seen |= metrics


def measure(module, folder, tmp_path, stage="test", data=Data, **options):
    logger = Recorder(tmp_path)
    trainer = L.Trainer(accelerator="cpu", logger=logger, default_root_dir=tmp_path, enable_progress_bar=False,
                        enable_model_summary=False, **options)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(trainer, stage)(module, datamodule=data(folder), verbose=False)
    return logger.seen


def expected_psnr(model, sets) -> list[float]:
    """Return the mean PSNR over pictures of each set, computed with numpy."""
    found = []
    for pictures in sets:
        values = []
        for item in (pictures[i] for i in range(len(pictures))):
            hr = item["hr"].numpy().astype(np.float64)
            with torch.no_grad():
                sr = model.render(item["lr"][None] * 2 - 1, hr.shape[-2:])[0]
            error = np.clip(sr.numpy().astype(np.float64) / 2 + 0.5, 0, 1) - hr
            values.append(-10 * np.log10((error**2).mean()))
        found.append(sum(values) / len(values))
    return found


def test_a_row_for_each_set_and_logs_written_from_rows(module, folder, tmp_path):
    logged = measure(module, folder, tmp_path)
    psnr = expected_psnr(module.model, Data(folder).test_sets)
    assert [(row.set, row.scale, row.images, row.protocol) for row in module.results] == [
        ("odd_x9", 2, 3, "raw"),
        ("odd_x9", 2.5, 3, "raw"),
    ]
    assert [row.values["psnr"] for row in module.results] == pytest.approx(psnr, abs=1e-5)
    assert list(module.results[0].values) == ["psnr", "ssim", "bicubic_psnr", "bicubic_ssim"]
    figures = [f"{kind}{metric}" for kind in ("", "bicubic_") for metric in ("psnr", "ssim")]
    names = {f"test/odd_x9_{scale}/{figure}" for scale in ("x2", "x2.5") for figure in figures}
    assert set(logged) - {"epoch"} == names | {"test/psnr", "test/bicubic_psnr"}
    assert logged["test/odd_x9_x2.5/psnr"] == pytest.approx(module.results[1].values["psnr"])
    assert logged["test/psnr"] == pytest.approx(sum(psnr) / 2, abs=1e-5)


def test_validation_logs_under_its_own_names(module, folder, tmp_path):
    logged = measure(module, folder, tmp_path, stage="validate")
    assert {"val/odd_x9_x3/psnr", "val/odd_x9_x3/bicubic_ssim", "val/psnr", "val/bicubic_psnr"} <= set(logged)


def test_only_the_pictures_that_were_measured_count(module, folder, tmp_path):
    measure(module, folder, tmp_path, limit_test_batches=2)
    assert [row.images for row in module.results] == [2, 2]


def test_a_batch_without_a_picture_counts_for_nothing(module, folder, tmp_path):
    class Padded(Data):
        def test_dataloader(self) -> list[DataLoader]:
            return [DataLoader([*images, {}], collate_fn=batch_of_one) for images in self.test_sets]

    def batch_of_one(items):
        (item,) = items
        return {key: x[None] if torch.is_tensor(x) else x for key, x in item.items()}

    whole = measure(module, folder, tmp_path)
    padded = measure(module, folder, tmp_path, data=Padded)
    assert [row.images for row in module.results] == [3, 3]
    assert padded == whole


def test_without_a_baseline_there_are_no_bicubic_columns(module, folder, tmp_path):
    logged = measure(SRModule(module.model, baseline=False), folder, tmp_path)
    assert not [name for name in logged if "bicubic" in name]
    assert "test/psnr" in logged


def test_faults_are_measured_on_sets_that_ask(module, folder, tmp_path):
    """One set is grey. The raw output is that of the network, not clamped."""
    for path in folder.iterdir():
        Image.fromarray(np.asarray(Image.open(path).convert("L").convert("RGB"))).save(path)

    class Faults(Data):
        def __init__(self, folder) -> None:
            super().__init__(folder)
            self.test_sets[1].faults = True

    for p in module.model.decoder.parameters():
        p.data *= 4  # so that colours are wrong
    measure(module, folder, tmp_path, data=Faults)
    plain, faulty = (row.values for row in module.results)
    assert not [name for name in plain if "raw" in name or "colour" in name]
    raw, shares = [], []
    for item in Faults(folder).test_sets[1]:
        with torch.no_grad():
            out = module.model.render(item["lr"][None] * 2 - 1, item["hr"].shape[-2:])[0].double().numpy()
        raw.append(np.abs(out).max())
        seen = (out / 2 + 0.5).clip(0, 1)
        shares.append((np.ptp(seen, axis=0) > 32 / 255).mean())
    assert faulty["raw_max"] == pytest.approx(max(raw), rel=1e-5)
    assert faulty["colour_share"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert faulty["colour_share"] > 0.1
    assert faulty["bicubic_colour_share"] == 0
    assert faulty["bicubic_raw_max"] < 2


def test_a_self_ensemble_is_measured_like_a_single_pass(module, folder, tmp_path):
    averaged = SRModule(module.model, self_ensemble=True)
    measure(averaged, folder, tmp_path)

    class Eight:
        def render(self, lr, size):
            turned = [torch.rot90(side, n, (2, 3)) for side in (lr, lr.flip(3)) for n in range(4)]
            sizes = [size if n % 2 == 0 else size[::-1] for n in range(8)]
            large = [module.model.render(x, s) for x, s in zip(turned, sizes, strict=True)]
            back = [torch.rot90(x, -n, (2, 3)) for n, x in enumerate(large)]
            return torch.stack([x if n < 4 else x.flip(3) for n, x in enumerate(back)]).mean(0)

    psnr = expected_psnr(Eight(), Data(folder).test_sets)
    assert [row.values["psnr"] for row in averaged.results] == pytest.approx(psnr, abs=1e-4)
    measure(module, folder, tmp_path)
    single = [row.values for row in module.results]
    assert [row.values["bicubic_psnr"] for row in averaged.results] == [row["bicubic_psnr"] for row in single]
    assert abs(single[0]["psnr"] - psnr[0]) > 1e-3


@pytest.mark.ddp
def test_rows_are_the_same_on_any_number_of_ranks(folder, tmp_path):
    """With three pictures on four ranks, one rank has none."""
    found = []
    for ranks in (1, 4):
        out = tmp_path / str(ranks)
        options = [o for o in TINY if not o.startswith(("encoder.", "decoder.", "trainer."))]
        command = [sys.executable, str(ROOT / "run.py"), *options, "task=test", "encoder=identity", "decoder=bicubic",
                   "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={ranks}", "data=folder",
                   f"data.val_root={folder}", f"data.root={folder}", "data.scales=[2,2.5]",
                   f"hydra.run.dir={out}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        found.append(json.loads((out / "results.json").read_text()))
    alone, together = found
    assert [row["images"] for row in alone] == [3, 3]
    for row, other in zip(alone, together, strict=True):
        text = ("set", "protocol")
        assert [row.pop(name) for name in text] == [other.pop(name) for name in text] == ["folder", "raw"]
        assert row == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(compose, tmp_path, monkeypatch,
                                                                               caplog, epoch):  # fmt: skip
    """The targets are NaN from the middle of an epoch on."""
    training_step = SRModule.training_step

    def step(self, batch, batch_idx):
        if self.trainer.current_epoch == epoch and batch_idx >= 3:
            batch["target"] = batch["target"] * float("nan")
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(SRModule, "training_step", step)
    with pytest.raises(SystemExit) as status:
        pipeline.run(compose(*TINY, "schedule.save_every=1"))
    assert status.value.code == 1
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert f"not finite after step {6 * epoch + 4}, training stops" in message
    assert "\n" not in message
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6 * epoch + 3
    assert all(x.isfinite().all() for x in saved["state_dict"].values() if x.is_floating_point())


def test_the_loss_is_looked_at_between_checkpoints(compose, tmp_path, caplog):
    options = ("schedule.save_every=1000", "schedule.iterations=100")
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, *options, "schedule.optimizer.lr=1e38"))
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    step = int(re.search(r"not finite after step (\d+), training stops", message)[1])
    assert step <= 21
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
