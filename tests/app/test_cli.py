"""Tests of the program as a user starts it: processes, signals and exit codes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ..conftest import ROOT, TINY


def command(tmp_path, *overrides):
    flags = [o for o in overrides if o.startswith("-")]
    rest = [o for o in overrides if not o.startswith("-")]
    return [sys.executable, str(ROOT / "run.py"), *flags, *TINY, f"paths.runs={tmp_path / 'runs'}", *rest]


def run(tmp_path, *overrides, check=True, **env):
    done = subprocess.run(
        command(tmp_path, *overrides), cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def run_folders(tmp_path, name="lmf_edsr"):
    return sorted((tmp_path / "runs" / name).iterdir())


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def photos(tmp_path):
    """Return a folder of five pictures of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        small = Image.fromarray(rng.integers(0, 256, (9, 8 + i, 3), dtype=np.uint8))
        small.resize((64 + 8 * i, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """A run that is killed and resumed has the same weights, W&B id and metrics as an uninterrupted one."""
    options = ("experiment=lmf_edsr", "schedule.iterations=40", "schedule.save_every=5", "schedule.epochs=2",
               "data.workers=1", "logger.wandb.mode=offline")  # fmt: skip
    run(tmp_path, *options)
    (whole,) = run_folders(tmp_path)
    process = subprocess.Popen(command(tmp_path, *options), cwd=tmp_path, stdout=subprocess.DEVNULL)
    last = None
    while last is None or not last.is_file() or torch.load(last, weights_only=True)["global_step"] < 10:
        assert process.poll() is None
        time.sleep(0.05)
        killed = [f for f in run_folders(tmp_path) if f != whole]
        last = killed[0] / "checkpoints" / "last.ckpt" if killed else None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 10 <= torch.load(last, weights_only=True)["global_step"] < 80
    wandb_id = (killed[0] / "wandb_id").read_text()

    run(tmp_path, *options, "ckpt_path=last")
    assert len(run_folders(tmp_path)) == 2
    assert (killed[0] / "wandb_id").read_text() == wandb_id
    assert len(list((killed[0] / "wandb").glob(f"offline-run-*-{wandb_id}"))) == 2
    expected, resumed = weights(whole), weights(killed[0])
    for key in expected:
        assert torch.equal(expected[key], resumed[key]), key


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_measuring_leaves_the_run_alone(tmp_path):
    run(tmp_path, "experiment=lmf_edsr")
    (trained,) = run_folders(tmp_path)
    before = snapshot(trained)
    test = ("experiment=lmf_edsr", "task=test", "data.limit=1", "data.crop=48", "data.scales=[2]")
    for ckpt_path in (trained, "last"):
        out = run(tmp_path, *test, f"ckpt_path={ckpt_path}").stdout
        newest = run_folders(tmp_path)[-1]
        assert f"results: {newest}" in out.replace("\n", "")
        assert (newest / "results.json").is_file()
        assert snapshot(trained) == before
    assert len(run_folders(tmp_path)) == 3
    refused = run(tmp_path, *test, "ckpt_path=last", f"hydra.run.dir={newest}", check=False)
    assert refused.returncode == 1
    assert "exists already" in refused.stdout + refused.stderr
    for task in ("test", "fit"):
        refused = run(tmp_path, *test, f"task={task}", f"hydra.run.dir={trained}", check=False)
        assert refused.returncode == 1
        assert "holds a" in refused.stdout + refused.stderr
        assert snapshot(trained) == before


@pytest.mark.slow
def test_a_sweep_notices_another_model_behind_init_from(tmp_path):
    for name in "ab":
        run(tmp_path, "experiment=lmf_edsr", f"name={name}", f"seed={ord(name)}")
    first, second = (run_folders(tmp_path, name)[0] / "checkpoints" / "best.ckpt" for name in "ab")
    donor = tmp_path / "a=b, c" / "checkpoints"
    donor.mkdir(parents=True)
    sweep = ("-m", "experiment=lmf_edsr", "name=s", f"init_from='{donor.parent}'", "schedule.optimizer.lr=1e-3,1e-4")
    finished = []
    for source in (first, first, second):
        if source != first or not finished:
            shutil.copy(source, donor / "best.ckpt")
        finished.append(run(tmp_path, *sweep).stdout.count("finished before"))
    assert finished == [0, 2, 0]


@pytest.mark.ddp
def test_started_ranks_take_awkward_paths(tmp_path, photos):
    """Lightning starts the other ranks with a command line, in which paths keep spaces, commas and quotes."""
    folders = [tmp_path / name for name in ("a=b, (c)", "it's")]
    for folder in folders:
        shutil.copytree(photos, folder)
    values = ",".join("'" + str(folder).replace("'", "\\'") + "'" for folder in folders)
    run(tmp_path, "-m", "experiment=lmf_edsr", "trainer=ddp", "trainer.devices=2", "schedule.epochs=1", "data=folder",
        f"data.val_root={photos}", "data.val_crop=48", f"data.root={values}")  # fmt: skip
    (sweep,) = run_folders(tmp_path)
    for job, folder in enumerate(folders):
        assert yaml.safe_load((sweep / str(job) / "config.yaml").read_text())["data"]["root"] == str(folder)
        assert (sweep / str(job) / "checkpoints" / "last.ckpt").is_file()
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert [(row["data.root"], row["error"]) for row in rows] == [(str(folder), "") for folder in folders]


@pytest.mark.ddp
def test_two_processes_train_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path, "experiment=lmf_edsr", f"hydra.run.dir={one}")
    run(
        tmp_path,
        "experiment=lmf_edsr",
        f"hydra.run.dir={two}",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
    )
    expected, actual = weights(one), weights(two)
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-4, atol=1e-6)
    rows = [list(csv.DictReader(next(f.glob("metrics/*/metrics.csv")).open())) for f in (one, two)]
    psnr = [[float(r["val/psnr"]) for r in run if r.get("val/psnr")] for run in rows]
    assert psnr[0] == pytest.approx(psnr[1], abs=1e-3)
    assert len(list(two.glob("config*.yaml"))) == 1


@pytest.mark.ddp
def test_two_processes_measure_as_one(tmp_path, photos):
    """On two ranks, none of five images counts twice, and costs are reported once."""
    run(tmp_path, "experiment=lmf_edsr")
    (trained,) = run_folders(tmp_path)
    options = ("task=test", f"ckpt_path={trained}", "data=folder", f"data.root={photos}", f"data.val_root={photos}",
               "data.scales=[2,3]")  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path, *options, f"hydra.run.dir={one}")
    out = run(tmp_path, *options, f"hydra.run.dir={two}", "trainer=ddp", "trainer.devices=2").stdout
    rows = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert [row["images"] for row in rows[0]] == [5, 5]
    for first, second in zip(*rows, strict=True):
        for key in ("psnr", "ssim", "bicubic_psnr"):
            assert second[key] == pytest.approx(first[key], abs=1e-6)
    assert out.count("images") == 1  # one table


@pytest.mark.ddp
def test_more_processes_than_pictures(tmp_path):
    """With two pictures on three ranks, training and testing end with the results of one process."""
    same = ("data.scales=[4]", "data.protocol=raw", "data.lr=pil", "data.crop=48")  # the settings of the validation
    one, three = tmp_path / "one", tmp_path / "three"
    ranks = ("trainer=ddp", "trainer.devices=3", "schedule.batch_size=3")
    run(tmp_path, "experiment=lmf_edsr", f"hydra.run.dir={three}", *ranks, *same, "task.test=true")
    run(tmp_path, "task=test", f"ckpt_path={three}", f"hydra.run.dir={one}", *same)
    (expected,), (tested,) = (json.loads((folder / "results.json").read_text()) for folder in (one, three))
    assert (expected["images"], tested["images"]) == (2, 2)
    rows = csv.DictReader(next(three.glob("metrics/*/metrics.csv")).open())
    validated = [row for row in rows if row.get("val/psnr")]
    best = max(validated, key=lambda row: float(row["val/psnr"]))
    for key in ("psnr", "ssim", "bicubic_psnr"):
        assert tested[key] == pytest.approx(expected[key], abs=1e-6)
        assert float(best[f"val/bundled_x4/{key}"]) == pytest.approx(expected[key], abs=1e-6)


@pytest.mark.ddp
def test_ddp_in_a_multirun_stays_in_its_job(tmp_path):
    options = ("experiment=lmf_edsr", "trainer=ddp", "trainer.devices=2", "schedule.epochs=1")
    run(tmp_path, "-m", *options, "schedule.optimizer.lr=1e-3,1e-4")
    (sweep,) = run_folders(tmp_path)
    jobs = sorted(p.name for p in sweep.iterdir() if p.is_dir())
    assert jobs == ["0", "1"]
    for job, lr in (("0", "0.001"), ("1", "0.0001")):
        assert f"lr: {lr}" in (sweep / job / "config.yaml").read_text()
        assert (sweep / job / "checkpoints" / "last.ckpt").is_file()
    first, second = weights(sweep / "0"), weights(sweep / "1")
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_wandb_unreachable(tmp_path):
    done = run(tmp_path, "experiment=lmf_edsr", "logger.wandb.mode=online", "+logger.wandb.init_timeout=3",
               WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)  # fmt: skip
    assert "logging offline" in done.stdout + done.stderr
    (folder,) = run_folders(tmp_path)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert list((folder / "wandb").glob("offline-run-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=lmf_edsr", "ckpt_path=nowhere.ckpt"], "no such checkpoint"),
        (["experiment=nonsense"], "experiment=nonsense: no such choice"),
        (["experiment=lmf_edrs"], "did you mean lmf_edsr?"),
        (["schedule.lerning_rate=1"], "lerning_rate"),
    ],
)
def test_mistakes_exit_with_status_1(tmp_path, overrides, message):
    done = run(tmp_path, *overrides, check=False)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_error_of_a_job_is_printed_once(tmp_path):
    done = run(tmp_path, "-m", "task=test", "ckpt_path=lm_liif_edsr", "data.sets=[set55]", "seed=0,1", check=False)
    assert done.returncode == 1
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
    assert said == ["ERROR: sets must be some of bundled, got set55 (hydra.verbose=true shows the traceback)"] * 2
