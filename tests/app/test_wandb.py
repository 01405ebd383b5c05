"""What runs leave in W&B: in the files of offline runs, and on a stand-in server that the real client talks to."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from lmf.app import pipeline

from ..conftest import ROOT, TINY, composer
from ..wandb_files import offline_runs
from .logging_cost import measure

wandb = pytest.importorskip("wandb", reason="needs the extra train")

PLAIN = tuple(o for o in TINY if not o.startswith(("logger.wandb", "callbacks.cost", "callbacks.pictures")))
COST = ("callbacks.cost.lr_size=[6,8]", "callbacks.cost.scales=[2]")
OPTIONS = (*PLAIN, *COST, "experiment=lmf_edsr", "trainer.log_every_n_steps=3", "callbacks.pictures.crop=32")
TEST = ("data.scales=[2,3.5]", "data.crop=48")


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run folder after a training and a test, offline."""
    folder = tmp_path_factory.mktemp("tracked")
    pipeline.run(composer(folder)(*OPTIONS, *TEST, "task.test=true", "logger.wandb.log_model=true"))
    return folder / "run"


@pytest.fixture(scope="module")
def offline(folder):
    (run,) = offline_runs(folder)
    return run


def test_a_run_says_what_it_is(offline, folder):
    run = offline.run
    assert (run.display_name, run.run_group, run.job_type, run.project) == ("lmf_edsr", "lmf_edsr", "fit", "lmf")
    assert list(run.tags) == ["lmf_edsr", "bundled", "quick"]
    assert "schedule.epochs=2" in run.notes
    assert (folder / "wandb_id").read_text() == run.run_id
    config = {item.key: json.loads(item.value_json) for item in run.config.update}  # from the first moment
    assert config["schedule.optimizer.lr"] == 1e-3
    assert config["decoder.depth"] == 2
    assert config["schedule.batch_size"] == 4
    assert config["choices.experiment"] == "lmf_edsr"
    assert {"code.version", "code.torch", "datasets.val.bundled.hash"} <= config.keys()
    assert config["datasets.train.images"] == 10
    assert len(config["datasets.train.hash"]) == 16
    assert not {"schedule", "decoder", "data"} & config.keys()


def test_metrics_have_a_step_axis_and_best_values(offline):
    assert offline.metrics["*"].step_metric == "trainer/global_step"
    for name in ("val/psnr", "val/bundled_x4/psnr", "val/bundled_x4/ssim"):
        assert offline.metrics[name].step_metric == "trainer/global_step"
        assert offline.metrics[name].summary.max
        assert offline.metrics[name].summary.last
    steps = [row["trainer/global_step"] for row in offline.history if "val/psnr" in row]
    assert steps == [5, 11]


def test_training_health(offline, folder):
    logged = [row for row in offline.history if "train/loss" in row]
    assert [row["trainer/global_step"] for row in logged] == [2, 5, 8, 11]
    for row in logged:
        assert row["train/images_s"] > 0
        assert 0 <= row["train/loader_share"] < 1
        assert 0.1 < row["memory/process_gib"] < 64
        assert row["train/grad_norm"] > 0
    assert len({row["train/lr"] for row in logged}) == 4  # one cycle
    (path,) = folder.glob("metrics/version_0/metrics.csv")
    rows = [row for row in csv.DictReader(path.open()) if row["train/grad_norm"]]
    assert [float(row["train/grad_norm"]) for row in rows] == [row["train/grad_norm"] for row in logged]


def test_pictures_at_several_steps(offline, folder):
    shown = offline.column("pictures/bundled_x4")
    assert len(shown) == 2  # one key at two steps: a slider
    for pictures in shown:
        assert pictures["count"] == 2
        assert pictures["captions"][0].startswith("astronaut: LR | bicubic ")
        assert all((offline.folder / "files" / name).is_file() for name in pictures["filenames"])


def test_a_table_of_every_picture(offline, folder):
    rows = offline.table("test/images")
    names = ("astronaut", "chelsea")
    assert [(row["set"], row["scale"], row["picture"]) for row in rows] == [
        ("bundled", scale, name) for scale in (2.0, 3.5) for name in names
    ]
    results = json.loads((folder / "results.json").read_text())
    for i, result in enumerate(results):
        own = rows[2 * i : 2 * i + 2]
        for value in ("psnr", "ssim", "bicubic_psnr"):
            assert sum(row[value] for row in own) / 2 == pytest.approx(result[value], abs=1e-4)
    crop = Image.open(rows[0]["crop"])
    assert crop.width > 4 * 40
    assert [row["set"] for row in offline.table("test/results")] == ["bundled", "bundled"]


def test_a_table_of_costs(offline, folder):
    rows = offline.table("cost/stages")
    assert [row["stage"] for row in rows] == ["encoder", "latent", "render", "total"]
    assert sum(row["gmacs"] for row in rows[:3]) == pytest.approx(rows[3]["gmacs"])
    assert json.loads((folder / "cost.json").read_text()) == rows
    assert [row["stage"] for row in csv.DictReader((folder / "cost.csv").open())] == [row["stage"] for row in rows]


def test_checkpoints_are_artifacts(offline, folder):
    models = {alias: a for a in offline.artifacts if a.type == "model" for alias in a.aliases if alias != "latest"}
    assert models.keys() == {"best", "last"}
    assert {a.name for a in models.values()} == {f"model-{offline.run.run_id}"}
    for alias, artifact in models.items():
        (entry,) = artifact.manifest.contents
        assert entry.path == f"{alias}.ckpt"
        assert entry.size == (folder / "checkpoints" / f"{alias}.ckpt").stat().st_size
    assert json.loads(models["best"].metadata)["score"] == pytest.approx(max(offline.column("val/psnr")))


def test_exported_weights_are_artifacts(compose, folder, tmp_path):
    output = tmp_path / "mine.safetensors"
    common = ("task=export", f"ckpt_path={folder}", f"output={output}")
    pipeline.run(compose(*common, output=tmp_path / "without"))
    assert not (tmp_path / "without" / "wandb").exists()
    pipeline.run(compose(*common, "logger.wandb.log_model=true", output=tmp_path / "with"))
    (run,) = offline_runs(tmp_path / "with")
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == ("mine", "model")
    assert "exported" in artifact.aliases
    assert run.run.job_type == "export"
    assert json.loads(artifact.metadata)["recipe"][0]["schedule"]["epochs"] == 2


def test_without_the_option_no_artifact(compose, tmp_path):
    pipeline.run(compose(*OPTIONS, "callbacks.cost=null", "callbacks.pictures=null"))
    (run,) = offline_runs(tmp_path / "run")
    assert not [artifact for artifact in run.artifacts if artifact.type == "model"]


def test_health_does_not_change_the_weights(compose, tmp_path):
    few = (*TINY, "trainer.log_every_n_steps=1", "callbacks.images=null")
    pipeline.run(compose(*few, output=tmp_path / "with"))
    pipeline.run(compose(*few, "callbacks.health=null", output=tmp_path / "without"))
    ours, plain = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_resuming_continues_the_run_online(compose, wandb_server, tmp_path):
    few = (*OPTIONS, "callbacks.cost=null", "logger.wandb.mode=online")
    pipeline.run(compose(*few))
    ((name, before),) = wandb_server.history.items()
    first = next(sent for operation, sent in wandb_server.requests if operation == "UpsertBucket")
    assert json.loads(first["config"])["schedule.epochs"] == {"value": 2}  # from the first moment
    before = list(before)
    pipeline.run(compose(*few, "ckpt_path=last", "schedule.epochs=3"))
    assert list(wandb_server.runs) == [name]
    rows = wandb_server.history[name]
    assert rows[: len(before)] == before
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    losses = [row["trainer/global_step"] for row in rows if "train/loss" in row]
    assert losses == [2, 5, 8, 11, 14, 17]
    assert wandb_server.config(name)["schedule.epochs"] == 3
    assert wandb_server.summary[name]["val/psnr"].keys() == {"max", "last"}
    assert wandb_server.runs[name]["groupName"] == "lmf_edsr"


def test_checkpoints_reach_the_server(compose, wandb_server):
    pipeline.run(compose(*OPTIONS, "callbacks.cost=null", "logger.wandb.mode=online", "logger.wandb.log_model=true"))
    models = [artifact for artifact in wandb_server.artifacts if artifact["artifactTypeName"] == "model"]
    aliases = [{alias["alias"] for alias in artifact["aliases"]} - {"latest"} for artifact in models]
    assert aliases == [{"best"}, {"last"}]
    uploaded = {Path(name).name for name in wandb_server.files if name.startswith("artifact/")}
    assert {"best.ckpt", "last.ckpt"} <= uploaded


@pytest.mark.parametrize("method", ["log", "define_metric"])
def test_a_failure_of_the_client_ends_only_the_logging(compose, tmp_path, monkeypatch, caplog, method):
    def fail(*_, **__):
        raise wandb.Error("the service has died")

    monkeypatch.setattr(wandb.Run, method, fail)
    pipeline.run(compose(*OPTIONS, "callbacks.cost=null", "logger.wandb.log_model=true"))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "W&B" in r.getMessage()]
    assert warnings == [
        "logging to W&B stops (the service has died); the run goes on and its metrics are in the CSV files of the run "
        "folder"
    ]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_a_client_that_does_not_start_ends_only_the_logging(compose, tmp_path, monkeypatch, caplog):
    def fail(**_):
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", fail)
    pipeline.run(compose(*OPTIONS, "callbacks.cost=null"))
    assert [r.getMessage() for r in caplog.records if "W&B" in r.getMessage()] == [
        "logging to W&B stops (no space left); the run goes on and its metrics are in the CSV files of the run folder"
    ]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def lmf(folder, *arguments, server=None, **options):
    """Start the command in ``folder``."""
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **(server.environment() if server else {}), "PYTHONPATH": python}
    command = [sys.executable, "-m", "lmf", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, **options)  # fmt: skip


@pytest.mark.slow
def test_a_server_that_goes_away_delays_the_end_only(wandb_server, tmp_path):
    """The client would try for hours."""
    few = (*OPTIONS, "callbacks.cost=null", "logger.wandb.mode=online", "logger.wandb.finish_timeout=3")
    process = lmf(tmp_path, *few, "schedule.epochs=40", "hydra.run.dir=run")
    while not any(wandb_server.history.values()):
        assert process.poll() is None
    wandb_server.stop()
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    assert out.count("W&B has not received everything") == 1
    assert "Traceback" not in out
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert list((tmp_path / "run" / "wandb").glob("run-*/*.wandb"))  # for wandb sync


@pytest.mark.slow
def test_a_multirun_names_its_jobs(tmp_path):
    few = (*OPTIONS, "callbacks.cost=null", "callbacks.pictures=null", "schedule.epochs=1")
    process = lmf(tmp_path, "-m", *few, "schedule.optimizer.lr=1e-3,1e-4", "seed=3", "name=w")
    out = process.communicate(timeout=600)[0]
    assert process.returncode == 0, out
    runs = [run for job in sorted(tmp_path.glob("runs/w/sweep-*/[01]")) for run in offline_runs(job)]
    assert [run.run.display_name for run in runs] == ["w lr=0.001", "w lr=0.0001"]
    assert [run.config["schedule.optimizer.lr"] for run in runs] == [1e-3, 1e-4]
    (group,) = {run.run.run_group for run in runs}
    assert group == next(tmp_path.glob("runs/w/sweep-*")).name


@pytest.mark.ddp
def test_only_the_first_rank_logs(tmp_path):
    ddp = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "task.test=true", *TEST)
    process = lmf(tmp_path, *(o for o in OPTIONS if not o.startswith("trainer.acc")), *ddp, "hydra.run.dir=run")
    out = process.communicate(timeout=600)[0]
    assert process.returncode == 0, out
    (run,) = offline_runs(tmp_path / "run")
    assert [row["trainer/global_step"] for row in run.history if "train/loss" in row] == [2, 5, 8, 11]
    assert [(row["scale"], row["picture"]) for row in run.table("test/images")] == [
        (scale, name) for scale in (2.0, 3.5) for name in ("astronaut", "chelsea")
    ]


@pytest.mark.slow
def test_logging_costs_little():
    """Of the main thread's own time, which does not depend on what else the machine does."""
    few = ["schedule.iterations=40", "data.workers=0", "trainer.accelerator=cpu"]
    assert measure(few, time.thread_time) < 0.02
