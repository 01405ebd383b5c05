"""The sweep of docs/wandb-sweep.yaml, created and run by the real client on a stand-in server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lmf.app import tracking
from lmf.training.loggers import run_id

from ..conftest import ROOT, TINY
from ..docs.conftest import composed

SWEEP = ROOT / "docs" / "wandb-sweep.yaml"
WANDB = [sys.executable, "-m", "wandb"]


@pytest.fixture
def sweeping(wandb_server, tmp_path):
    """Return ``sweeping(lmf, *choices)``, which runs the sweep with a script in place of the command ``lmf``."""

    def swept(lmf: str, *choices: dict) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "lmf").write_text(f"#!{sys.executable}\n{lmf}")
        (tmp_path / "bin" / "lmf").chmod(0o755)
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        options = {"env": {**os.environ, "PATH": path, "PYTHONPATH": python}, "cwd": tmp_path, "check": True}
        subprocess.run([*WANDB, "sweep", str(SWEEP)], **options, timeout=200)
        (sweep,) = wandb_server.sweeps
        wandb_server.sweep_runs = list(choices)
        subprocess.run([*WANDB, "agent", f"team/lmf/{sweep['name']}"], **options, timeout=500)

    return swept


def test_the_agent_runs_our_command(sweeping, wandb_server, tmp_path):
    write = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]), file=open('started', 'a'))"
    chosen = [
        {"schedule.optimizer.lr": 0.00042, "decoder.depth": 6},
        {"schedule.optimizer.lr": 1e-4, "decoder.depth": 4},
    ]
    sweeping(write, *chosen)
    config = yaml.safe_load(wandb_server.sweeps[0]["config"])
    assert config["parameters"] == yaml.safe_load(SWEEP.read_text())["parameters"]
    assert config["metric"] == {"name": "val/psnr", "goal": "maximize"}
    started = [json.loads(line) for line in (tmp_path / "started").read_text().splitlines()]
    assert len(started) == 2
    for (arguments, environment), choices in zip(started, chosen, strict=True):
        assert environment["WANDB_SWEEP_ID"] == "sweep0"
        job = composed(*arguments)  # the command is right, and has what was chosen
        assert job.schedule.optimizer.lr == choices["schedule.optimizer.lr"]
        assert job.decoder.depth == choices["decoder.depth"]
        assert job.logger.wandb.mode == "online"


@pytest.mark.parametrize("key", yaml.safe_load(SWEEP.read_text())["parameters"])
def test_its_parameters_are_options(key):
    node = composed("experiment=lmf_edsr")
    for part in key.split("."):
        node = node[part]


@pytest.mark.slow
def test_a_run_of_the_sweep_is_the_agents(sweeping, wandb_server, tmp_path):
    options = (*(o for o in TINY if "wandb" not in o), "logger.wandb.project=ignored")
    command = f"import sys\nfrom lmf.app.cli import main\nmain([*sys.argv[1:], *{options!r}])"
    sweeping(command, {"schedule.optimizer.lr": 0.00042, "decoder.depth": 2})
    (run,) = wandb_server.runs.values()
    assert (run["name"], run["sweep"], run["project"]) == ("swept0", "sweep0", "lmf")
    assert run["displayName"] == "lmf_edsr lr=0.00042 depth=2"
    config = wandb_server.config("swept0")
    assert config["schedule.optimizer.lr"] == 0.00042
    assert not {"schedule", "lr"} & config.keys()
    assert [row["val/psnr"] for row in wandb_server.history["swept0"] if "val/psnr" in row]
    (folder,) = (tmp_path / "runs" / "lmf_edsr").iterdir()
    assert (folder / "wandb_id").read_text() == "swept0"


def test_an_agent_names_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    assert run_id(tmp_path / "alone") != "theirs"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep0")
    assert run_id(tmp_path / "swept") == "theirs"


def test_a_missing_file_of_choices_is_no_sweep(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(Path(tmp_path, "nothing.yaml")))
    assert tracking.swept() == {}
