"""Test the script that compares the kernels' lead with the committed one."""

import importlib.util
import json
import subprocess
import sys

import pytest

from ..conftest import ROOT, needs_compiler

SCRIPT = ROOT / "benchmarks" / "ratios.py"


@pytest.fixture(scope="module")
def ratios():
    spec = importlib.util.spec_from_file_location("ratios", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ratio_falls_below_the_tolerance(ratios):
    kept = {"a": 2.0, "b": 4.0, "not measured": 9.0}
    assert ratios.fallen({"a": 2 * ratios.TOLERANCE, "b": 3.9, "new": 0.1}, kept) == []
    assert ratios.fallen({"a": 1.0, "b": 4.0}, kept) == ["a"]


def test_the_committed_ratios_are_leads():
    for ratios in json.loads((ROOT / "benchmarks" / "baseline.json").read_text()).values():
        assert len(ratios) == 5
        assert all(ratio > 1 for ratio in ratios.values())


@needs_compiler
def test_the_script_writes_ratios_and_says_which_fell(tmp_path):
    baseline = tmp_path / "baseline.json"

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, SCRIPT, "--tiny", "--repeats", "1", "--baseline", baseline, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert run("--write").returncode == 0
    kept = json.loads(baseline.read_text())
    ((kind, own),) = kept.items()
    assert len(own) == 4
    name = next(iter(own))
    baseline.write_text(json.dumps({kind: {name: 1e6}}))
    fell = run()
    assert fell.returncode == 1
    assert name in fell.stderr
    baseline.write_text(json.dumps({kind: {name: 1e-6}}))
    assert run().returncode == 0
