import math
from dataclasses import replace

import pytest
import torch

from lmf.errors import UserError
from lmf.grid import Grid
from lmf.renderers import CMSR, Dense
from lmf.renderers.cmsr.costs import Costs, Share, Work
from lmf.renderers.cmsr.levels import intensity
from lmf.renderers.cmsr.tables import Table, Tables
from tests.renderers.cmsr.test_renderer import picture, quantiles, render, tiny

FREE = Costs(dense_call=1, dense_pixel=1, call=0, level=0, coarse=0, fine=0, enlarged=0, query=0)
SIZE = (8 * 12, 8 * 10)


@pytest.fixture(scope="module")
def case():
    """Return a model, a picture and tables by which half of its latents are coarse."""
    model, lr = tiny(skip="bilinear"), picture(1, 3, 12, 10)
    a, b = quantiles(model, lr, 0.25, 0.5)
    return model, lr, Tables({8: [Table({1: a, 3: b}, 1e-3)]}, overlap=True)


def test_seconds_are_the_sum_of_all_work():
    costs = Costs(dense_call=5, dense_pixel=3, call=7, level=11, coarse=13, fine=17, enlarged=19, query=23)
    assert costs.dense_seconds(100) == 305
    work = Work(pixels=100, levels=2, coarse=3, fine=4, enlarged=5, queries=6)
    assert costs.seconds(work) == 7 + 11 * 2 + 13 * 3 + 17 * 4 + 19 * 5 + 23 * 6


@pytest.mark.parametrize(("levels", "dense"), [(0.94, False), (0.96, True), (1.04, True)])
def test_levels_must_save_5_percent(levels, dense):
    work = Work(pixels=1, levels=1, coarse=1, fine=0, enlarged=0)
    reason = replace(FREE, dense_call=0, dense_pixel=1, coarse=levels).dense(work)
    assert (reason is not None) == dense
    if dense:
        assert reason == f"1e+03 ms expected, at least {1e3 * levels:.3g} ms in levels"


@pytest.mark.parametrize("overlap", [False, True])
def test_work_is_what_is_rendered(case, overlap):
    model, lr, tables = case
    with torch.inference_mode():
        strength = intensity(model.decoder, model.prepare(lr, SIZE).latent())[0]
    (table,), target = tables.tables[8], Grid.of(*SIZE)
    _, (stats,) = render(model, lr, SIZE, CMSR(tables, overlap=False, dense="never").render)
    work = Work.of(table, 8, strength, target, overlap)
    assert work.levels == len(stats.levels) == 3
    assert work.coarse == pytest.approx(sum(stats.rendered[:2]))
    assert work.fine == pytest.approx(stats.rendered[2])
    assert work.pixels == stats.pixels
    coarse = 64 * int((stats.level_map < 2).sum())
    assert work.enlarged == pytest.approx(coarse if overlap else 12 * 10 + 36 * 30 + 96 * 80)
    all_coarse = Work.of(Table({2: math.inf}), 8, strength, target, overlap)
    assert (all_coarse.levels, all_coarse.coarse, all_coarse.fine) == (1, 24 * 20, 0)
    nothing_coarse = Work.of(Table({}), 8, math.nan * strength, target, overlap)
    assert (nothing_coarse.levels, nothing_coarse.coarse, nothing_coarse.fine) == (1, 0, 96 * 80)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("name", ["call", "level", "coarse", "fine", "enlarged"])
def test_costs_decide_and_the_picture_is_that_of_the_renderer_chosen(case, name, overlap):
    model, lr, tables = case
    dense = render(model, lr, SIZE, Dense())
    levels, (before,) = render(model, lr, SIZE, CMSR(tables, overlap=overlap, dense="never").render)
    assert before.dense is None
    out, (stats,) = render(model, lr, SIZE, CMSR(tables, overlap=overlap, dense=FREE).render)
    assert torch.equal(out, levels)
    assert (stats.dense, stats.rendered, stats.levels) == (None, before.rendered, before.levels)
    assert torch.equal(stats.level_map, before.level_map)
    out, (stats,) = render(model, lr, SIZE, CMSR(tables, overlap=overlap, dense=replace(FREE, **{name: 1e9})).render)
    assert torch.equal(out, dense)
    assert (stats.levels, stats.rendered, stats.share) == ((8,), (96 * 80,), 1)
    assert stats.level_map.shape == (12, 10)
    assert "ms in levels" in stats.dense


def test_a_picture_that_cannot_gain_costs_nothing(case, monkeypatch):
    model, lr, tables = case

    def intensity(latent):
        raise AssertionError("not needed")

    monkeypatch.setattr(model.decoder, "intensity", intensity)
    dense = render(model, lr, SIZE, Dense())
    assert torch.equal(render(model, lr, SIZE, CMSR(tables, dense=replace(FREE, call=1e9))), dense)
    out, (stats,) = render(model, lr, (40, 48), CMSR(tables, dense="never").render)
    assert torch.equal(out, render(model, lr, (40, 48), Dense()))
    assert stats.dense == "the scale is at most 4"


def test_sampling_counts(case):
    model, lr, tables = case
    probed, (stats,) = render(model, lr, SIZE, CMSR(tables, precision_db=30, dense=FREE).render)
    assert stats.tried > 0
    assert stats.precision_db is not None
    out, (stats,) = render(model, lr, SIZE, CMSR(tables, precision_db=30, dense=replace(FREE, query=1e9)).render)
    assert (stats.tried, stats.precision_db) == (0, None)
    assert torch.equal(out, render(model, lr, SIZE, Dense()))
    assert not torch.equal(out, probed)
    _, (stats,) = render(model, lr, SIZE, CMSR(tables, precision_db=30, dense="never").render)
    assert stats.dense == "sampling would take as long"


def test_by_share(case):
    model, lr, tables = case
    (high,) = quantiles(model, lr, 0.05)
    most = Tables({8: [Table({1: high})]}, overlap=True)
    _, (few,) = render(model, lr, SIZE, CMSR(tables, dense="share").render)
    out, (many,) = render(model, lr, SIZE, CMSR(most, dense="share").render)
    assert few.dense is None
    assert many.dense.endswith("of the pixels would be rendered")
    assert torch.equal(out, render(model, lr, SIZE, Dense()))
    for options in ({"overlap": False}, {"budget": 0.9}):  # a budget is kept, and without overlap all is as published
        _, (stats,) = render(model, lr, SIZE, CMSR(most, dense="share", **options).render)
        assert stats.dense is None
    assert Share(math.inf).dense(Work(pixels=1, levels=1, coarse=0, fine=2, enlarged=0)) is None


def test_a_batch_is_decided_picture_by_picture(case):
    model, lr, tables = case
    batch = torch.cat([lr, 0 * lr])
    costs = replace(FREE, dense_call=0, fine=1.9)
    out, stats = render(model, batch, SIZE, CMSR(tables, dense=costs).render)
    singly = [render(model, x[None], SIZE, CMSR(tables, dense=costs).render) for x in batch]
    assert [s.dense for s in stats] == [s.dense for _, (s,) in singly]
    torch.testing.assert_close(out, torch.cat([x for x, _ in singly]), atol=1e-5, rtol=0)


def test_settings_and_errors(case):
    *_, tables = case
    assert CMSR(tables).settings["dense"] == "measured"
    assert CMSR(tables, dense=FREE).settings["dense"]["dense_pixel"] == 1
    with pytest.raises(UserError, match="dense must be one of measured, share, never, got 'always'"):
        CMSR(tables, dense="always")
