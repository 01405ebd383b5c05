"""``launcher=ray``: jobs in Ray's processes."""

import csv
import os
import subprocess
import sys

import pytest

from ..conftest import ROOT, TINY

pytest.importorskip("ray", reason="needs the extra ray")


@pytest.mark.slow
def test_jobs_run_in_ray(tmp_path):
    options = ["-m", *TINY, "name=r", "paths.runs=runs", "seed=0,1", "launcher=ray", "schedule.epochs=1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (table,) = tmp_path.glob("runs/r/sweep-*/summary.csv")
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["jobs"], row["set"]) == ("2", "bundled")


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_the_only_one_to_fail(tmp_path):
    code = [
        "import os, signal",
        "def run(config):",
        "    if config.seed == 1:",
        "        os.kill(os.getpid(), signal.SIGKILL)",
    ]
    (tmp_path / "deadly.py").write_text("\n".join(code))
    options = ["-m", "name=r", "task=test", "task.run=deadly.run", "paths.runs=runs", "seed=0,1,2", "launcher=ray"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *options, "hydra.launcher.remote.max_retries=0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
    )
    assert done.returncode == 1
    (table,) = tmp_path.glob("runs/r/sweep-*/sweep.csv")
    with table.open() as file:
        assert [row["error"] for row in csv.DictReader(file)] == ["", "did not finish", ""]
