"""Views of an enlargement equal the same pixels of the whole."""

from itertools import product

import numpy as np
import pytest
import torch

import lmf
from lmf import SRModel, decoders, encoders
from lmf.checkpoint import find
from lmf.errors import UserError
from lmf.grid import Grid, Strip
from lmf.inference.stores import Cache, Features
from lmf.inference.views import Views, joined, without
from lmf.renderers import CMSR, Dense, Stats
from lmf.renderers.cmsr.tables import beside

from ..test_model import TINY
from .test_tiling import ENCODERS, build, picture


def ready(model, lr, **options):
    views = Views(model, lr, **{"tile": 11, "patch": 5, **options})
    for tile in views.tiles:
        views.encode(tile)
    return views


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("window", [0, 1000], ids=["patches", "window"])
@pytest.mark.parametrize("scale", [0.6, 1, 2.6, 3, 9.1])
@pytest.mark.parametrize("decoder", sorted(TINY))
def test_a_view_is_a_part_of_the_whole(decoder, scale, window, monkeypatch):
    monkeypatch.setattr("lmf.inference.views.SMALL", 0)
    monkeypatch.setattr("lmf.inference.views.WINDOW", window)
    model, lr = build(decoder), picture(23, 31)
    size = (round(23 * scale), round(31 * scale))
    whole = model.render(lr, size)
    views = ready(model, lr)
    for view in [
        ((0, size[0]), (0, size[1])),
        ((size[0] // 3, size[0] // 2 + 1), (size[1] // 2, size[1] - 1)),
        ((size[0] - 1, size[0]), (0, 1)),
    ]:
        assert not views.missing(size, view)
        expected = whole[:, :, slice(*view[0]), slice(*view[1])]
        assert (views.render(size, view, Dense()) - expected).abs().max() < 3e-5


@pytest.mark.parametrize("decoder", ["srno", "lm_lte", "lm_lte_heat"])
def test_scales_that_share_a_clipped_cell_do_not_share_pictures(decoder):
    """Above x4 all scales have the cell of x4. SRNO's latents still belong to one size, those with decay to a scale."""
    model, lr = build(decoder), picture(13, 11)
    views = ready(model, lr)
    for size in ((65, 55), (78, 66), (65, 55)):
        view = ((0, size[0]), (0, size[1]))
        assert (views.render(size, view, Dense()) - model.render(lr, size)).abs().max() < 3e-5


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder(encoder):
    model, lr, size = build(encoder=encoder), picture(21, 18), (70, 61)
    view = ((13, 68), (5, 61))
    expected = model.render(lr, size)[:, :, 13:68, 5:61]
    assert (ready(model, lr).render(size, view, Dense()) - expected).abs().max() < 3e-5


def test_bands_make_the_whole(monkeypatch):
    monkeypatch.setattr("lmf.inference.tiling.PIXELS", 400)
    model, lr, size = build(), picture(23, 18), (70, 61)
    bands = list(ready(model, lr).bands(size, Dense()))
    assert max(band.shape[2] for band in bands) <= 400 // 61
    assert (torch.cat(bands, dim=2) - model.render(lr, size)).abs().max() < 3e-5


@pytest.mark.parametrize("view", [((0, 300), (0, 280)), ((41, 160), (100, 239)), ((270, 300), (250, 280))])
def test_multi_scale_rendering_of_a_view(view):
    """With one table for all, the levels of a view are those of the whole picture."""
    model = lmf.load("lm_liif_edsr")
    lr = torch.nn.functional.interpolate(picture(8, 7), (30, 28), mode="bicubic").clamp(-1, 1)
    enlargement = model.prepare(lr, (300, 280))
    strength = model.decoder.intensity(enlargement.latent())
    bounds = dict(zip((1, 2, 4), strength.quantile(torch.tensor([0.3, 0.6, 0.8])).tolist(), strict=True))
    cmsr = CMSR(
        {"format": 1, "estimator": "test", "overlap": True, "tables": {10: [{"bounds": bounds}]}}, dense="never"
    )
    expected, stats = [], []
    whole = enlargement.render(renderer=cmsr.watched(expected))
    made = ready(model, lr).render((300, 280), view, cmsr.watched(stats))
    assert len(expected[0].levels) > 2
    assert set(stats[0].levels) <= set(expected[0].levels)
    assert (made - whole[:, :, slice(*view[0]), slice(*view[1])]).abs().max() < 3e-5


def test_the_budget_holds_for_the_view():
    model = lmf.load("lm_liif_edsr")
    lr = torch.nn.functional.interpolate(picture(8, 7), (30, 28), mode="bicubic").clamp(-1, 1)
    stats: list[Stats] = []
    cmsr = CMSR(beside(find("lm_liif_edsr")), budget=0.6, dense="never")
    ready(model, lr).render((240, 224), ((50, 200), (60, 200)), cmsr.watched(stats))
    assert 0 < stats[0].share <= 0.6
    assert stats[0].pixels == 150 * 140


def test_only_the_tiles_of_the_view_are_needed():
    model, lr = build(), picture(60, 60)
    views = Views(model, lr, tile=12, patch=4)
    assert len(views.tiles) == 25
    near = views.missing((240, 240), ((100, 110), (100, 110)))  # LR pixels 24 to 28, and 2 + 1 around them
    assert near == [((12, 24), (12, 24)), ((12, 24), (24, 36)), ((24, 36), (12, 24)), ((24, 36), (24, 36))]
    for tile in near:
        views.encode(tile)
    assert not views.missing((240, 240), ((100, 110), (100, 110)))
    expected = model.render(lr, (240, 240))[:, :, 100:110, 100:110]
    made = views.render((240, 240), ((100, 110), (100, 110)), Dense())
    assert (made - expected).abs().max() < 3e-5


def test_latents_are_computed_once_above_the_trained_scales(monkeypatch):
    model, lr = build(), picture(20, 20)
    views, calls = ready(model, lr), []
    latent = model.decoder.latent
    monkeypatch.setattr(model.decoder, "latent", lambda *a: [latent(*a), calls.append(1)][0])
    for scale in (4, 5.5, 16):
        views.render((round(20 * scale),) * 2, ((0, 20 * 4), (0, 20 * 4)), Dense())
    assert len(calls) == len(list(product(*views._patches)))
    views.render((60, 60), ((0, 60), (0, 60)), Dense())  # the latents of LM-LIIF depend on scales below 4
    assert len(calls) == 2 * len(list(product(*views._patches)))
    views.close()
    views.render((80, 80), ((0, 80), (0, 80)), Dense())
    assert len(calls) == 3 * len(list(product(*views._patches)))


def test_dragging_joins_latents_once_for_many_views(monkeypatch):
    monkeypatch.setattr("lmf.inference.views.SMALL", 0)
    model, lr = build(), picture(40, 40)
    views, regions = ready(model, lr), []
    monkeypatch.setattr(
        "lmf.inference.views.joined", lambda parts, region: [joined(parts, region), regions.append(region)][0]
    )
    whole = model.render(lr, (320, 320))
    for left in (100, 101, 103, 200, 203):
        made = views.render((320, 320), ((90, 130), (left, left + 30)), Dense())
        assert (made - whole[:, :, 90:130, left : left + 30]).abs().max() < 3e-5
    assert regions == [((5, 20), (5, 20)), ((5, 20), (20, 35))]  # 3 LR pixels around the view, in patches of 5
    assert len([key for key in views.cache._held if key[0] is views._window_key]) == 1


def test_latents_ahead_are_those_of_large_scales(monkeypatch):
    model, lr = build(), picture(20, 20)
    views = ready(model, lr)
    assert len(list(views.ahead())) == len(list(product(*views._patches)))
    monkeypatch.setattr(model.decoder, "latent", lambda *a: pytest.fail("computed again"))
    for scale in (4, 5.5, 32):
        views.render((round(20 * scale),) * 2, ((0, 80), (0, 80)), Dense())


def test_no_latents_ahead_where_they_do_not_fit():
    views = ready(build(), picture(20, 20), cache=Cache(10_000))
    assert list(views.ahead()) == []
    assert list(ready(build("liif"), picture(20, 20)).ahead()) == []  # it does not clip cells


def test_the_cache_is_bounded():
    model, lr = build(), picture(40, 40)
    one = model.decoder.latent(model.features(lr), lr, torch.full((1, 2), 0.01))
    size = sum(t.nbytes for t in one.tensors().values())
    cache = Cache(2 * size + 1)
    for key in range(3):
        cache.put((key,), one)
    assert cache.get((0,)) is None
    assert cache.get((2,)) is cache.get((1,)) is one


def test_features_are_kept_as_they_are():
    store, feat = Features(3, (7, 9)), torch.rand(1, 3, 4, 5)
    store.write(((2, 6), (3, 8)), feat)
    assert torch.equal(store.read(((3, 6), (4, 7))), feat[:, :, 1:, 1:4])


@pytest.mark.parametrize(
    ("held", "count"),
    [
        (None, 1),
        (((0, 3), (0, 50)), 1),
        (((4, 20), (6, 30)), 0),
        (((5, 12), (8, 20)), 4),
        (((0, 15), (2, 25)), 2),
        (((4, 20), (2, 25)), 1),
    ],
)
def test_what_a_view_adds(held, count):
    pixels = np.zeros((40, 60), dtype=int)
    parts = without(((4, 20), (6, 30)), held)
    for rows, cols in parts:
        pixels[slice(*rows), slice(*cols)] += 1
    expected = np.zeros_like(pixels)
    expected[4:20, 6:30] = 1
    if held is not None:
        expected[slice(*held[0]), slice(*held[1])] = 0
    assert (pixels == expected).all()
    assert len(parts) == count


@pytest.mark.parametrize("view", [((0, 81), (0, 80)), ((5, 5), (0, 80)), ((-1, 5), (0, 80))])
def test_a_view_outside_is_refused(view):
    with pytest.raises(UserError, match="must lie in the picture of 80x80"):
        ready(build(), picture(20, 20)).render((80, 80), view, Dense())


def test_columns_keep_their_coordinates():
    """As `test_a_strip_keeps_coordinates_relative_to_rows` in test_tiling, along x."""
    whole = Grid.of(61 * 3, 61 * 3)
    part = Grid(whole.cells, whole.rows, whole.cols, Strip(38, 61, 61), Strip(38, 61, 61))
    assert torch.equal(*part.axes())
    assert part.cell[0] == part.cell[1]
    assert part.latents((23, 23)) == Grid((61, 61), (38, 61), (38, 61), part.strip, part.column_strip)


def test_bicubic_on_a_grid_is_bicubic_at_points():
    model = SRModel(encoders.Identity(), decoders.Bicubic())
    enlargement = model.prepare(picture(13, 9), (57, 31)).crop((4, 50), (3, 31))
    latent = enlargement.latent()
    coord = enlargement.target.coord()[None]
    points = model.decoder.query(latent, coord, enlargement.cell).transpose(1, 2).reshape(1, 3, 46, 28)
    np.testing.assert_allclose(enlargement.render(latent), points, atol=2e-6)
