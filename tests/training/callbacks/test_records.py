import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from PIL import Image

from lmf.app.identity import identity
from lmf.data import EvalSettings, Folder, SRDataModule
from lmf.data.evaluation import unique
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.model import SRModel
from lmf.training.callbacks import RecordsCallback
from lmf.training.module import SRModule

from ...conftest import ROOT

NAMES = ("a", "b", "c", "d")


class Stop(Exception):
    pass


class Counting(SRModule):
    """Counts the pictures, and stops after some."""

    def __init__(self, stop=None):
        super().__init__(SRModel(Identity(), Bicubic()))
        self.seen, self.stop = [], stop

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        if len(self.seen) == self.stop:
            raise Stop
        self.seen.append(batch["name"])
        return super().test_step(batch, batch_idx, dataloader_idx)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(NAMES):
        noise = Image.fromarray(rng.integers(0, 256, (9, 8 + i, 3), dtype=np.uint8))
        noise.resize((60, 54 + 2 * i), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def measure(photos, output, make_trainer, stop=None, **options):
    data = SRDataModule(test={"mine": Folder(photos)}, test_settings=EvalSettings(scales=(2, 3)), workers=0)
    module = Counting(stop)
    trainer = make_trainer(RecordsCallback(output, **{"identity": "x", **options}))
    try:
        trainer.test(module, datamodule=data, verbose=False)
    except Stop:
        return module.seen, None
    return module.seen, [(row.name, row.images, row.values) for row in module.results]


def rows(output):
    with (output / "pictures.csv").open() as file:
        return list(csv.DictReader(file))


def test_an_interrupted_test_continues_with_equal_results(photos, tmp_path, make_trainer):
    _, whole = measure(photos, tmp_path / "whole", make_trainer)
    for stop in (0, 1, 5, 7):
        output = tmp_path / str(stop)
        seen, none = measure(photos, output, make_trainer, stop=stop)
        assert (len(seen), none) == (stop, None)
        again, results = measure(photos, output, make_trainer)
        assert len(again) == 8 - stop
        for (name, images, values), (wanted_name, wanted_images, wanted) in zip(results, whole, strict=True):
            assert (name, images) == (wanted_name, wanted_images)
            assert values == pytest.approx(wanted, abs=1e-12)
        assert rows(output) == rows(tmp_path / "whole")
        assert [path.name for path in output.iterdir()] == ["pictures.csv"]


def test_the_values_of_each_picture(photos, tmp_path, make_trainer):
    _, results = measure(photos, tmp_path / "run", make_trainer)
    own = [row for row in rows(tmp_path / "run") if row["scale"] == "2.0"]
    assert [row["picture"] for row in own] == list(NAMES)
    mean = sum(float(row["psnr"]) for row in own) / 4
    assert results[0][2]["psnr"] == pytest.approx(mean, abs=1e-9)


def test_a_test_that_was_killed_at_its_very_end(photos, tmp_path, make_trainer, monkeypatch):
    _, whole = measure(photos, tmp_path / "whole", make_trainer)
    with monkeypatch.context() as patch:
        patch.setattr(RecordsCallback, "on_test_end", lambda *args: None)
        measure(photos, tmp_path / "run", make_trainer)
    seen, results = measure(photos, tmp_path / "run", make_trainer)
    assert len(seen) == 1
    assert [images for _, images, _ in results] == [4, 4]
    assert results[0][2] == pytest.approx(whole[0][2], abs=1e-12)


def test_records_of_another_test_do_not_count(photos, tmp_path, make_trainer):
    measure(photos, tmp_path / "run", make_trainer, stop=3)
    assert len(measure(photos, tmp_path / "run", make_trainer, identity="y")[0]) == 8
    measure(photos, tmp_path / "cmsr", make_trainer, stop=3)
    assert len(measure(photos, tmp_path / "cmsr", make_trainer, resume=False)[0]) == 8


def test_saved_pictures(photos, tmp_path, make_trainer):
    measure(photos, tmp_path / "run", make_trainer, save_images=True)
    folder = tmp_path / "run" / "pictures"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == sorted(
        f"mine_x{scale}/{name}.png" for scale in (2, 3) for name in NAMES
    )
    with Image.open(photos / "a.png") as image:
        hr = np.asarray(image)
        lr = image.resize((20, 18), Image.Resampling.BICUBIC)
    bands = [Image.fromarray(np.asarray(band, np.float32)) for band in lr.split()]
    expected = np.stack([np.asarray(band.resize((60, 54), Image.Resampling.BICUBIC)) for band in bands], axis=-1)
    with Image.open(folder / "mine_x3" / "a.png") as saved:
        assert saved.size == (hr.shape[1], hr.shape[0])
        difference = np.abs(np.asarray(saved) - expected.clip(0, 255))
        assert difference[6:-6, 6:-6].max() <= 0.51  # Pillow treats the border in another way


def test_names_are_unique():
    assert unique(["a", "b", "a", "a", "a-2"]) == ["a", "b", "a-2", "a-3", "a-2-2"]


def test_pictures_with_equal_names(photos, tmp_path, make_trainer):
    (photos / "more").mkdir()
    (photos / "more" / "a.png").write_bytes((photos / "a.png").read_bytes())
    measure(photos, tmp_path / "run", make_trainer)
    assert len({row["picture"] for row in rows(tmp_path / "run")}) == 5


def test_the_task_has_the_option(compose):
    one, two = (identity(compose("task=test", "experiment=bicubic", f"save_images={x}")) for x in ("true", "false"))
    assert one != two  # so that records without pictures do not count as tests with them


@pytest.mark.ddp
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks in /proc")
def test_a_killed_rank_leaves_one_line_and_its_results(tmp_path, shared):
    options = ["task=test", "ckpt_path=lm_liif_edsr", "data=benchmarks", f"paths.data={shared / 'data'}",
               "data.sets=[set14]", "data.scales=[3]", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
               "callbacks.cost=null", "logger.wandb.mode=disabled", f"hydra.run.dir={tmp_path / 'run'}"]  # fmt: skip
    command = [sys.executable, str(ROOT / "run.py"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    killed = False
    while not killed and process.poll() is None:
        time.sleep(0.05)
        if len(list((tmp_path / "run").glob("pictures/*/*.json"))) >= 2:
            os.kill(second_rank(process.pid), signal.SIGKILL)
            killed = True
    out, _ = process.communicate(timeout=120)
    assert killed, out
    assert process.returncode == 1, out
    assert out.count("ERROR: rank 1 was killed by SIGKILL; the same command with hydra.run.dir=") == 1
    assert "Traceback" not in out
    kept = len(list((tmp_path / "run").glob("pictures/*/*.json")))
    assert 2 <= kept < 14
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows(tmp_path / "run")) == 14
    assert not list((tmp_path / "run").glob("pictures/*"))


def second_rank(parent: int) -> int:
    """The process that the first rank has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            if b"LOCAL_RANK=1" in (stat.parent / "environ").read_bytes():
                return int(stat.parent.name)
        except OSError:  # it has ended
            continue
    raise AssertionError("there is no second rank")


class Others(Callback):
    """Adds a number and a picture to the values of a picture, as CMSR does."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        outputs["values"] |= {"rendered_share": 0.5, "levels": Image.new("RGB", (2, 2))}


def test_numbers_of_other_callbacks(photos, tmp_path, make_trainer):
    data = SRDataModule(test={"mine": Folder(photos)}, test_settings=EvalSettings(scales=(2,)), workers=0)
    trainer = make_trainer(Others(), RecordsCallback(tmp_path / "run", "x", resume=False))
    trainer.test(Counting(), datamodule=data, verbose=False)
    assert [row["rendered_share"] for row in rows(tmp_path / "run")] == ["0.5"] * 4
    assert "levels" not in rows(tmp_path / "run")[0]
