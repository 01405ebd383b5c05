import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

import lmf
from lmf.app import sweep
from lmf.app.identity import identity
from lmf.app.notes import read_note
from lmf.renderers.cmsr.tables import Table, Tables, fingerprint

from ..conftest import ROOT, TINY


def test_the_identity_is_that_of_the_start(compose, tmp_path, monkeypatch):
    """A file that changes while a job runs may not be the one that the job has read."""
    photos = tmp_path / "photos"
    photos.mkdir()
    job = compose("task=upscale", "scale=2", f"input={photos}")
    before = identity(job)
    hydra = {"mode": RunMode.MULTIRUN, "runtime": {"output_dir": str(tmp_path / "0")}, "overrides": {"task": []}}
    (tmp_path / "0").mkdir()
    config = OmegaConf.create({**job, "hydra": hydra}, flags={"allow_objects": True})
    callback = sweep.SweepCallback()
    callback.on_job_start(config=config)
    (photos / "new.png").touch()
    assert identity(job) != before
    callback.on_job_end(config=config, job_return=JobReturn(status=JobStatus.COMPLETED))
    assert read_note(tmp_path / "0")["identity"] == before


def test_a_restarted_command_keeps_its_output_and_finds_the_package(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from lmf.app import sweep
TerminatedWorkerError = type("TerminatedWorkerError", (Exception,), {{}})
execv = os.execv
def checked(program, arguments):
    print(os.environ["PYTHONPATH"].split(os.pathsep), file=sys.stderr)
    execv(program, arguments)
os.execv = checked
print("before")
with sweep.surviving_workers(["--version"]):
    raise TerminatedWorkerError
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"before\nlmf {lmf.__version__}\n", done.stderr
    assert str([str(ROOT)]) in done.stderr


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Return a trained run with CMSR tables for x6 and two thresholds."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        *TINY,
        f"paths.runs={folder / 'runs'}",
        f"hydra.run.dir={folder / 'run'}",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    model = lmf.load(folder / "run")
    tables = Tables({6: [Table({1: 0.05, 3: 0.2}, 1e-5), Table({1: 0.3}, 1e-4)]}, model=fingerprint(model))
    checkpoint = lmf.checkpoint.find(folder / "run")
    checkpoint.with_suffix(".cmsr.yaml").write_text(tables.dump())
    return folder


def multirun(folder, *overrides):
    command = [sys.executable, str(ROOT / "run.py"), "-m", *TINY, f"paths.runs={folder / 'runs'}", "name=s",
               f"ckpt_path={folder / 'run'}", "data.limit=1", "data.crop=48", *overrides]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    path = max((folder / "runs" / "s").iterdir(), key=lambda p: p.stat().st_mtime)
    return done, path, list(csv.DictReader((path / "sweep.csv").open()))


@pytest.mark.slow
def test_a_failed_job_does_not_spoil_the_sweep_and_is_all_that_runs_again(ready):
    options = ("sweep=cmsr", "renderer.mse_threshold=1e-7,1e-5,1e-4", "scale=6")
    done, path, rows = multirun(ready, *options)
    assert done.returncode == 1
    assert [r["job"] for r in rows] == ["0", "1", "2"]
    assert "no table for x6" in rows[0]["error"]
    assert [r["error"] for r in rows[1:]] == ["", ""]
    assert float(rows[2]["rendered_share"]) < float(rows[1]["rendered_share"]) <= 1.1
    assert (path / "pareto.png").is_file()
    assert "psnr" in done.stdout
    times = [(path / str(i) / "results.json").stat().st_mtime_ns for i in (1, 2)]
    done, again, _ = multirun(ready, *options)
    assert again == path
    assert done.stdout.count("finished before") == 2
    assert [(path / str(i) / "results.json").stat().st_mtime_ns for i in (1, 2)] == times
    changed = ready / "run" / "checkpoints" / "best.ckpt"
    saved = torch.load(changed, weights_only=True)
    torch.save(saved, changed)  # another file, so no result is valid any more
    done, _, rows = multirun(ready, *options)
    assert "finished before" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_parallel(ready, launcher):
    plugin = "hydra_plugins.hydra_" + launcher.split("_")[0] + "_launcher"
    pytest.importorskip(plugin)
    done, path, rows = multirun(ready, "sweep=cmsr", f"launcher={launcher}", "renderer.mse_threshold=1e-5,1e-4",
                                "scale=6", "data.workers=1", f"+data.val_limit={len(launcher)}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r["job"] for r in rows] == ["0", "1"]
    assert all(0 < float(r["rendered_share"]) <= 1.1 for r in rows)
    assert sorted(p.name for p in path.iterdir() if p.is_dir() and p.name.isdigit()) == ["0", "1"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds workers in /proc")
def test_a_killed_worker_does_not_end_the_others(tmp_path):
    pytest.importorskip("joblib")
    options = ["-m", *TINY, "name=k", "seed=0,1,2", "launcher=joblib", f"paths.runs={tmp_path}/runs"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    killed, last = False, []
    while not killed and process.poll() is None:
        time.sleep(0.2)
        last = [*tmp_path.glob("runs/k/sweep-*/*/checkpoints/last.ckpt")]
        loky = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"popen_loky" in read(path)]
        workers = [int(path.name) for path in loky if str(tmp_path).encode() in read(path / "environ")]
        if last and workers:
            os.kill(workers[0], signal.SIGKILL)
            killed = True
    out, _ = process.communicate(timeout=300)
    assert killed
    assert process.returncode == 0, out
    (table,) = tmp_path.glob("runs/k/sweep-*/sweep.csv")
    rows = list(csv.DictReader(table.open()))
    assert [(row["job"], row["error"]) for row in rows] == [("0", ""), ("1", ""), ("2", "")]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process is gone
        return b""
