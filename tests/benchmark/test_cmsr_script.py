"""The script benchmarks/cmsr.py, on small pictures."""

import importlib.util
import re
import sys

import pytest
import torch

from lmf import io
from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("cmsr_script", ROOT / "benchmarks" / "cmsr.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SECONDS", 0.0)  # at least one round
    return module


def test_one_row_per_size_and_scale(script, monkeypatch, tmp_path, capsys):
    for name, side in (("a", 64), ("b", 64), ("small", 20)):
        noise = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(side))
        io.write(tmp_path / f"{name}.png", (255 * noise).byte().numpy())
    options = ["--folder", tmp_path, "--sides", 16, "--scales", 5, 6, "--benchmark", tmp_path, "--dense", "never"]
    monkeypatch.setattr(sys, "argv", ["cmsr.py", *map(str, options)])
    grad = torch.is_grad_enabled()
    try:
        script.main()
    finally:
        torch.set_grad_enabled(grad)
    rows = capsys.readouterr().out.splitlines()[2:]
    number = r"[\d.e+]+"
    for row, (label, scale, count) in zip(
        rows,
        [("16x16", 5, 2), ("16x16", 6, 2), (tmp_path.parent.name, 5, 3), (tmp_path.parent.name, 6, 3)],
        strict=True,
    ):
        pattern = (
            rf"\| {re.escape(label)} \| x{scale} \| \d+% \| {count} of {count} \| {number} \| {number} \| {number} \|"
        )
        assert re.fullmatch(pattern, row), row
