"""What tasks show in a terminal of 80 columns."""

import os
import subprocess
import sys

import pytest

from lmf.training.results import Result, Results

from ..conftest import ROOT, TINY

DATA = ("data.limit=1", "data.crop=48")
COST = ("callbacks.cost.lr_size=[4,6]", "callbacks.cost.scales=[2]")
LOGGED = ("INFO: ", "ERROR: ", "Error executing job")  # the terminal wraps what is logged, such as paths


def screen(folder, *options, status=0):
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *options], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert not any(word in line for line in lines for word in ("[HYDRA]", "Warning", "v_num", "Traceback"))
    drawn = [line for line in lines if not line.startswith(LOGGED)]
    assert max(map(len, drawn)) <= 80
    assert not any("…" in line for line in drawn)
    return lines


@pytest.mark.slow
def test_no_table_is_wider_than_the_terminal(tmp_path):
    tiny = [o for o in TINY if o not in ("callbacks.cost=null", "callbacks.progress=null",
                                         "+trainer.enable_progress_bar=false")]  # fmt: skip
    lines = screen(tmp_path, *tiny, *COST, "hydra.run.dir=run")
    assert sum(line.startswith("validation after step") for line in lines) == 2
    assert any("train/loss: " in line for line in lines)  # the progress bar
    lines = screen(tmp_path, *tiny, *COST, *DATA, "task=test", "ckpt_path=run", "hydra.run.dir=test")
    assert any("bicubic" in line for line in lines)
    jobs = ("-m", *tiny, "callbacks.cost=null", *DATA, "task=test", "ckpt_path=run,nowhere.ckpt")
    lines = screen(tmp_path, *jobs, status=1)
    assert any("failed because" in line for line in lines)
    assert any("Launching 2 jobs" in line and line.startswith("INFO: ") for line in lines)  # a line of Hydra
    small = ("task.sizes=[[6,8]]", "task.scales=[2]", "task.repeats=1", "trainer.accelerator=cpu")
    lines = screen(tmp_path, "task=benchmark", *small, "hydra.run.dir=benchmark")
    assert any(line.split()[:2] == ["lm_liif", "fused"] for line in lines)


def test_results_with_many_columns_are_shown_in_parts(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim", "psnr_vs_dense", "least_psnr_vs_dense", "dense_psnr",
             "rendered_share", "render_s", "dense_render_s", "gmacs", "dense_gmacs")  # fmt: skip
    values = {name: 0.0123456 if name.endswith("_s") else 30.0 + n for n, name in enumerate(names)}
    Results([Result("set14", 2.5, 14, "benchmark", values), Result("b100", 12, 100, "benchmark", values)]).show("run")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    rows = [line.split()[2:] for line in lines if line.split()[:2] == ["set14", "2.5"]]
    shown = [word for row in rows for word in row]
    assert shown == ["14", "30.00", "31.0000", "32.00", "33.0000", "34.00", "35.00", "36.00", "37.00", "12.3", "ms",
                     "12.3", "ms", "40.00", "41.00"]  # fmt: skip
    assert lines[0].strip() == "run"
