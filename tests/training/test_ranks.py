"""Processes that share work: who they are, and what happens when one dies."""

import subprocess
import sys

import pytest

from lmf.training import ranks

from ..conftest import ROOT


@pytest.mark.parametrize(
    ("variables", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (0, 1)),  # not of torchrun, but of Lightning
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, (3, 4)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, (0, 1)),  # a batch script without srun
    ],
)
def test_the_share_of_a_process(monkeypatch, variables, share):
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.share() == share


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), 9)", "ERROR: rank 2 was killed by SIGKILL; run it again\n"),
        ("sys.exit(3)", "ERROR: rank 2 ended with status 3; run it again\n"),
        ("sys.exit(0)", "over\n"),
    ],
)
def test_the_death_of_a_rank_ends_the_first_with_one_line(end, said):
    code = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from lmf.training.ranks import watching
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
other = subprocess.Popen([sys.executable, "-c", "import os, sys; {end}"])
with watching(lambda: [sleeper, other], "run it again"):
    other.wait()
    time.sleep(3)
sleeper.kill()
print("over", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stderr == said
    assert done.returncode == (0 if said == "over\n" else 1)
