import math
from dataclasses import asdict

import pytest
import torch

from lmf.grid import Grid
from lmf.kernels import backend, measurements
from lmf.kernels.build import library
from lmf.renderers import CMSR, Dense
from lmf.renderers.cmsr import measured as module
from lmf.renderers.cmsr.costs import Costs, Work
from lmf.renderers.cmsr.measured import fit, measure, measured, resized
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.tables import Table, Tables
from tests.renderers.cmsr.test_renderer import picture, render, tiny

COSTS = Costs(dense_call=1e-4, dense_pixel=4e-8, call=9.0, level=2e-4, coarse=5e-8, fine=4e-8, enlarged=0.0, query=1e-6)


@pytest.mark.parametrize("negative", [False, True])
def test_fit(negative):
    """Exact costs are found again, and a cost that would be negative becomes 0."""
    works = [
        Work(100, n, c, f, e)
        for n, c, f, e in [(1, 9, 0, 5), (1, 0, 70, 0), (7, 50, 9, 30), (3, 20, 2, 90), (2, 4, 4, 8)]
    ]
    works.append(Work(100, 1, 1, 1, 1))
    truth = {"call": 2.0, "level": 3.0, "coarse": 0.5, "fine": 0.25, "enlarged": -0.01 if negative else 0.125}
    seconds = [
        truth["call"]
        + truth["level"] * w.levels
        + sum(truth[k] * getattr(w, k) for k in ("coarse", "fine", "enlarged"))
        for w in works
    ]
    found = fit(works, seconds)
    if negative:
        assert found["enlarged"] == 0
        assert found == pytest.approx({**truth, "enlarged": 0}, rel=0.1)
    else:
        assert found == pytest.approx(truth)


@pytest.mark.skipif(library() is None, reason="needs the compiled kernel")
@pytest.mark.parametrize("overlap", [False, True])
def test_measuring_gives_costs(overlap, monkeypatch):
    monkeypatch.setattr(measurements, "STEADY", math.inf)  # also on a busy machine
    monkeypatch.setattr(measurements, "ROUNDS", 2)
    model, size = tiny(skip="bilinear"), (5, 7)
    with torch.inference_mode():
        latent = model.prepare(picture(1, 3, *size), (40, 56)).latent()
    costs = measure(model.decoder, latent, overlap)
    assert all(0 <= value < 1 for value in costs.values())
    assert costs["query"] > 0
    Costs(**costs)


@pytest.mark.skipif(library() is None, reason="needs the compiled kernel")
def test_measured_once_and_only_where_the_kernel_renders_levels(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("LMF_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_KNOWN", {})
    monkeypatch.setattr(module, "measure", lambda *args: calls.append(args) or asdict(COSTS))
    model, lr = tiny(skip="bilinear"), picture(1, 3, 6, 7)
    tables = Tables({8: [Table({2: 1.0})]}, overlap=True)
    for _ in range(2):
        out, (stats,) = render(model, lr, (48, 56), CMSR(tables).render)
        assert "9e+03 ms in levels" in stats.dense
        assert torch.equal(out, render(model, lr, (48, 56), Dense()))
    module._KNOWN.clear()  # as in another process
    render(model, lr, (48, 56), CMSR(tables))
    assert len(calls) == 1
    render(model, lr, (48, 56), CMSR(tables, overlap=False))
    assert len(calls) == 2
    render(model, lr, (48, 56), CMSR(tables, dense="never"))
    render(model, lr, (48, 56), CMSR(tables, dense="share"))
    render(model, lr, (24, 28), CMSR(tables))
    target = Grid.of(48, 56)
    with torch.inference_mode(), backend("reference"):
        latent = model.prepare(lr, (48, 56)).latent()
        cell = model.decoder.cell(target, (6, 7), 1, lr.device)
        assert measured(Painter(model.decoder, latent, 100), cell, True) is None
    assert len(calls) == 2


def test_latents_are_repeated():
    model, lr = tiny(skip="bilinear"), picture(1, 3, 5, 9)
    with torch.inference_mode():
        latent = model.prepare(lr, (40, 72)).latent()
    large = resized(latent, 7)
    assert large.size == (7, 7)
    assert torch.equal(large.image, torch.cat([latent.image, latent.image], 2)[:, :, :7, :7])
    assert torch.equal(large.modulation, torch.cat([latent.modulation, latent.modulation], 1)[:, :7, :7])
