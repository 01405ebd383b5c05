"""Tests that `lmf upscale` starts without what it does not need."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import lmf
from lmf import io

from ..conftest import ROOT

LATE = """
import json, sys
from lmf.app import cli
cli.main(sys.argv[1:])
print(json.dumps([*sys.modules]))
"""


def test_upscale_loads_nothing_that_it_does_not_need(tmp_path):
    """torch._dynamo alone would take longer than torch itself."""
    io.write(tmp_path / "a.png", np.zeros((6, 8, 3), np.uint8))
    command = [sys.executable, "-c", LATE, "upscale", str(tmp_path / "a.png"), "--scale=2", f"--output={tmp_path}"]
    loaded = set(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    assert "lmf.kernels.ops" in loaded
    assert io.read_size(tmp_path / "a_x2.png") == (12, 16)
    unwanted = {"torch._dynamo", "sympy", "hydra", "omegaconf", "lightning", "rich", "tifffile", "yaml", "torchmetrics"}
    assert not loaded & unwanted


def test_loading_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    lmf.load("lm_liif_edsr")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_the_benchmark_lists_every_stage():
    command = [sys.executable, str(ROOT / "benchmarks" / "startup.py"), "--runs", "1"]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    found = dict(re.findall(r"^(.*?) +(\d+\.\d) ms$", output, re.MULTILINE))
    stages = ["import torch", "import lmf", "load weights", "load kernel", "decode", "encode", "latent", "render"]
    assert all(float(found[stage]) > 0 for stage in (*stages, "write", "end of Python"))
    assert re.search(r"ratio \d\.\d\d", output)
