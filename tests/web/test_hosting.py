"""The files of docs/hosting, and the benchmark."""

import runpy
import subprocess
import sys

import pytest

from ..conftest import ROOT
from .conftest import Client, photo, running, saved

HOSTING = ROOT / "docs" / "hosting"


def test_the_application_for_hosting(monkeypatch):
    monkeypatch.setenv("LMF_HOSTS", "zoom.example other.example")
    app = runpy.run_path(str(HOSTING / "app.py"))["app"]
    with running(app) as port:
        client = Client(port)
        assert client.request("GET", "/", host="other.example").status == 200
        assert client.request("GET", "/", host="evil.example").status == 403
        client.open().upload(saved(photo()))
        assert client.frame("lm_lte_edsr", 2, (0, 60), (0, 84))[0].shape == (60, 84, 4)
        big = saved(photo(2100, 2000))
        assert "more than the limit of 4 megapixels" in client.upload(big, status=400)["error"]


def test_the_container_holds_what_it_copies():
    lines = (HOSTING / "Dockerfile").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"docs", "lmf", "conf", "constraints.txt", "pyproject.toml", "setup.py"} & set(ignored)
    assert any("docs/hosting/app.py" in line and "'/src[web]'" in line for line in lines)


@pytest.mark.slow
def test_the_benchmark_runs():
    small = ("--view", "40", "64", "--frames", "3", "--megapixels", "0.02", "--whole")
    command = [sys.executable, str(ROOT / "benchmarks" / "zoom.py"), *small]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()[2:8]]
    assert [row[:2] for row in rows] == [[scale, kind] for scale in ("4", "8", "16") for kind in ("whole", "dragged")]
    assert all(float(number) > 0 for row in rows for number in row[2:])
    assert "all features computed" in done.stdout
