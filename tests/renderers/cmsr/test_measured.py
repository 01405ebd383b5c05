import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from lmf.grid import Grid
from lmf.kernels import backend
from lmf.kernels.build import library
from lmf.renderers import CMSR, Dense
from lmf.renderers.cmsr import measured as module
from lmf.renderers.cmsr.costs import Costs, Work
from lmf.renderers.cmsr.measured import fit, load, measure, measured, resized
from lmf.renderers.cmsr.painter import Painter
from lmf.renderers.cmsr.tables import Table, Tables
from tests.renderers.cmsr.test_renderer import picture, render, tiny

COSTS = Costs(
    dense_call=1e-4, dense_pixel=4e-8, call=5e-4, level=2e-4, coarse=5e-8, fine=4e-8, enlarged=0.0, query=1e-6
)


def refuse():
    raise AssertionError("measured again")


def once(costs, steady=True):
    return lambda: (costs, steady)


def test_costs_are_kept(tmp_path):
    folder = tmp_path / "new"
    assert load("one", once(COSTS), folder) == COSTS
    assert load("one", refuse, folder) == COSTS
    other = replace(COSTS, call=1.0)
    assert load("two", once(other), folder) == other
    assert load("one", refuse, folder) == COSTS
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "",
        lambda content: "{",
        lambda content: "[1, 2]",
        lambda content: json.dumps({**content, "key": "of another machine"}),
        lambda content: json.dumps({"key": content["key"]}),
        lambda content: json.dumps({**content, "seconds": {**content["seconds"], "level": -1e-5}}),
        lambda content: json.dumps({**content, "seconds": {**content["seconds"], "level": math.nan}}),
        lambda content: json.dumps({**content, "seconds": {**content["seconds"], "level": math.inf}}),
        lambda content: json.dumps({**content, "seconds": {**content["seconds"], "level": None}}),
        lambda content: json.dumps(
            {**content, "seconds": {k: v for k, v in content["seconds"].items() if k != "fine"}}
        ),
        lambda content: "\xff\x00",
    ],
)
def test_damaged_or_foreign_files_are_measured_again(tmp_path, spoil):
    load("one", once(COSTS), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(spoil(json.loads(path.read_text())), encoding="latin-1")
    again = replace(COSTS, level=3e-4)
    assert load("one", once(again), tmp_path) == again
    assert load("one", refuse, tmp_path) == again
    assert json.loads(path.read_text()) == {"key": "one", "seconds": asdict(again)}


def test_a_busy_machine_leaves_nothing_behind(tmp_path):
    assert load("one", once(COSTS, steady=False), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert load("one", once(COSTS), tmp_path / "file") == COSTS
    assert "cannot be written" in caplog.text


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
    monkeypatch.setattr(module, "BUDGET", 0.0)
    model, size = tiny(skip="bilinear"), (5, 7)
    with torch.inference_mode():
        latent = model.prepare(picture(1, 3, *size), (40, 56)).latent()
    costs, _ = measure(model.decoder, latent, overlap)
    assert all(0 <= value < 1 for value in asdict(costs).values())
    assert costs.query > 0


@pytest.mark.skipif(library() is None, reason="needs the compiled kernel")
def test_measured_once_and_only_where_the_kernel_renders_levels(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("LMF_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_KNOWN", {})
    monkeypatch.setattr(module, "measure", lambda *args: (calls.append(args), (replace(COSTS, call=9.0), True))[1])
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
