import json
import math
import warnings
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from lmf import checkpoint, renderers
from lmf.decoders import LIIF
from lmf.encoders import EDSR
from lmf.grid import Grid
from lmf.kernels import backend
from lmf.kernels.enlarge import enlarge
from lmf.model import SRModel
from lmf.renderers import Dense
from lmf.renderers.cmsr.levels import Level, level_grid, touched
from lmf.renderers.cmsr.probe import Probe
from lmf.renderers.cmsr.tables import Table, TableError, Tables
from tests import golden

CMSR = partial(renderers.CMSR, dense="never")
SHARES = {"lm_lte": {6: 0.9696, 8: 0.5454, 12: 0.2424}}


def tiny(multiple=1, **decoder):
    """Return a random model whose latents differ in intensity."""
    torch.manual_seed(0)
    model = checkpoint.build(
        {
            "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 1},
            "decoder": {"_target_": "lmf.decoders.LMLIIF", "in_channels": 8, "depth": 2, "hyper": [12], **decoder},
        }
    ).eval()
    model.encoder.multiple = multiple
    return model


def render(model, lr, size, renderer):
    """Return the result of ``renderer`` for a model and a picture."""
    image = model.pad(lr)
    target = model.target(lr.shape[-2:], size)
    cell = model.decoder.cell(target, image.shape[-2:], len(lr), lr.device).to(lr.dtype)
    with torch.inference_mode():
        return renderer(model.decoder, model.latent(image, cell), target, cell)


def quantiles(model, lr, *q):
    """Return the quantiles ``q`` of the intensities of the latents of ``lr``."""
    image = model.pad(lr)
    cell = model.decoder.cell(Grid.of(*(12 * n for n in image.shape[-2:])), image.shape[-2:], len(lr), lr.device)
    cell = cell.to(lr.dtype)
    with torch.inference_mode():
        return model.latent(image, cell).intensity().flatten().float().quantile(torch.tensor(q)).tolist()


def picture(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("scale", [6, 8, 12])
@pytest.mark.parametrize("name", ["lm_liif", "lm_lte", "lm_ciaosr"])
def test_agrees_with_the_authors(shared, name, scale):
    path = shared / "golden" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    g = golden.load(path)
    model = g.model()
    tables = {
        int(s): {float(level): bound for level, bound in table.items()}
        for s, table in json.loads(meta["s2m_tables"]).items()
    }
    out, (stats,) = render(model, g.lr, (24 * scale, 32 * scale), CMSR(tables).render)
    theirs = g.tensors[f"cmsr_24x32_x{scale}"].permute(2, 0, 1).float()
    off = (out[0] - theirs).abs() - (2e-3 + 5e-4 * theirs.abs())
    assert off[:, scale:-scale, scale:-scale].max() <= 0
    weighted = sum(n * (level / scale) ** 2 for level, n in zip(stats.levels, stats.rendered, strict=True))
    assert weighted / stats.pixels == pytest.approx(float(meta[f"cmsr_x{scale}_query_fraction"]), abs=1e-3)
    if name in SHARES:
        assert stats.share == pytest.approx(SHARES[name][scale], abs=1e-3)


def naive(model, lr, size, bands):
    """Implement section 3.4 directly for one unpadded picture, with masks over whole levels and `grid_sample`."""
    h, w = lr.shape[-2:]
    latent_cell = model.decoder.cell(Grid.of(*size), (h, w), 1, lr.device)
    latent = model.latent(lr, latent_cell)
    strength, canvas, count = latent.intensity()[0], lr, 0
    for level, low, high in bands:
        at = Grid.of(*size) if level is None else Grid.of(math.floor(h * level), math.floor(w * level))
        coord = at.coord()
        owner = F.grid_sample(
            strength[None, None], coord.flip(-1)[None, None], mode="nearest", padding_mode="border", align_corners=False
        )[0, 0, 0]
        inside = (owner >= low) & (owner <= high)
        if not inside.any():
            continue
        canvas = F.interpolate(canvas, at.size, mode="bilinear", align_corners=False)
        rgb = model.decoder.query(latent, coord[inside][None], model.decoder.cell(at, (h, w), 1, lr.device))
        canvas[0].flatten(1)[:, inside] = rgb[0].T
        count += int(inside.sum())
    return F.interpolate(canvas, size, mode="bilinear", align_corners=False), count


@pytest.mark.parametrize("skip", ["none", "bilinear"])
@pytest.mark.parametrize(("scale", "finest"), [(6, True), (5.3, True), (7.7, False), (30, False)])
def test_agrees_with_the_plain_algorithm(scale, finest, skip):
    model, lr = tiny(skip=skip), picture(1, 3, 7, 9)
    a, b, c = quantiles(model, lr, 0.3, 0.5, 0.8)
    size = (round(7 * scale), round(9 * scale))
    table = {1: a, 1.5: b, 4: c if finest else 1.0}
    inf = math.inf
    bands = (
        [(1, -inf, a), (1.5, a, b), (4, b, c), (None, c, inf)] if finest else [(1, -inf, a), (1.5, a, b), (4, b, inf)]
    )
    out, (stats,) = render(model, lr, size, CMSR({32: table}).render)
    with torch.inference_mode():
        expected, count = naive(model, lr, size, bands)
    assert out.shape == (1, 3, *size)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)
    assert sum(stats.rendered) == count


@pytest.mark.parametrize("scale", [20, 24, 30])
def test_shipped_tables_beyond_their_largest_scale(scale):
    """The finest level of the tables is empty there; the released code then returns a smaller picture."""
    model, lr = tiny(), picture(3, 3, 6, 5)
    low, high = quantiles(model, lr, 0.2, 0.6)
    renderer = CMSR({12: {1: 0.3, 12: 1}, 18: {1: low, 2: high, 4: high, 6: 1, 18: 1}})
    batch, stats = render(model, lr, (6 * scale, 5 * scale), renderer.render)
    assert batch.shape == (3, 3, 6 * scale, 5 * scale)
    assert max(s.levels[-1] for s in stats) == 6
    singly = [render(model, lr[i : i + 1], (6 * scale, 5 * scale), renderer) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(singly), atol=1e-5, rtol=0)
    dense = render(model, lr, (6 * scale, 5 * scale), Dense())
    assert (batch - dense).abs().mean() < 0.5 * dense.std()


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("size", [(35, 45), (42, 54), (44, 130), (7, 9), (3, 4)])
def test_dense_where_nothing_is_flat(size, multiple):
    model, lr = tiny(multiple), picture(2, 3, 7, 9)
    dense = render(model, lr, size, Dense())
    assert torch.equal(render(model, lr, size, CMSR({8: {1: 0.0, 4: 0.0}})), dense)
    if size[0] * size[1] <= 16 * 7 * 9:
        assert torch.equal(render(model, lr, size, CMSR({8: {1: 1.0}})), dense)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_part_of_the_picture_is_that_part(multiple, overlap):
    model, lr = tiny(multiple), picture(1, 3, 10, 11)
    a, b = quantiles(model, lr, 0.3, 0.7)
    renderer = CMSR({6: {1: a, 2.5: b}}, queries=300, overlap=overlap)
    image, target = model.pad(lr), model.target((10, 11), (60, 66))
    cell = model.decoder.cell(target, image.shape[-2:], 1, lr.device)
    with torch.inference_mode():
        latent = model.latent(image, cell)
        whole, (all_of_it,) = renderer.render(model.decoder, latent, target, cell)
        part, (some,) = renderer.render(model.decoder, latent, Grid(target.cells, (18, 31), (25, 66)), cell)
    torch.testing.assert_close(part, whole[:, :, 18:31, 25:66], atol=1e-5, rtol=0)
    assert sum(some.rendered) < sum(all_of_it.rendered)


def test_memory_bound_changes_nothing():
    model, lr = tiny(), picture(1, 3, 8, 8)
    a, b = quantiles(model, lr, 0.3, 0.7)
    many, few = (render(model, lr, (53, 53), CMSR({8: {1: a, 3: b}}, queries=q)) for q in (1 << 20, 50))
    torch.testing.assert_close(many, few, atol=1e-5, rtol=0)


def test_stats_say_what_was_rendered():
    model, lr = tiny(), picture(1, 3, 6, 8)
    (middle,) = quantiles(model, lr, 0.5)
    _, (stats,) = render(model, lr, (48, 64), CMSR({8: {2: middle}}).render)
    assert stats.levels == (2, 8)
    assert stats.rendered == (24 * 4, 24 * 64)
    assert stats.share == pytest.approx((24 * 4 + 24 * 64) / (48 * 64))
    assert stats.level_map.shape == (6, 8)
    assert stats.level_map.sum() == 24


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
@pytest.mark.parametrize(("rows", "size"), [(10, (80, 96)), (10, (74, 92)), (50, (400, 96)), (50, (370, 92))])
def test_overlap_enlarges_each_latent_from_its_own_level(rows, size, kernels):
    """The result equals rendering and enlarging the whole picture at each level and selecting one level per latent."""
    model, lr = tiny(skip="bilinear"), picture(1, 3, rows, 12)
    bounds = dict(zip((1, 1.5, 3, 5), quantiles(model, lr, 0.2, 0.3, 0.5, 0.7), strict=True))
    with backend("reference") if kernels == "torch" else nullcontext():
        out, (stats,) = render(model, lr, size, CMSR({8: bounds}, overlap=True).render)
    assert stats.levels[:-1] == (1, 1.5, 3, 5)
    with torch.inference_mode():
        enlargement = model.prepare(lr, size)
        latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
        owner = F.interpolate(stats.level_map[None, None].float(), size, mode="nearest-exact")
        expected = Dense()(model.decoder, latent, target, cell)
        for i, level in enumerate(stats.levels[:-1]):
            at = Grid.of(math.floor(rows * level), math.floor(12 * level))
            coarse = Dense()(model.decoder, latent, at, model.decoder.cell(at, (rows, 12), 1, lr.device))
            coarse = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
            expected = torch.where(owner == i, coarse, expected)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [1, 1.6, 2.5, 4])
def test_overlap_renders_what_is_read_and_no_more(level):
    """The gradient of the enlargement shows which pixels it reads."""
    inside = (torch.rand(6, 7, generator=torch.Generator().manual_seed(0)) < 0.2).numpy()
    at, size = Grid.of(math.floor(6 * level), math.floor(7 * level)), (44, 46)
    coarse = torch.zeros(1, 1, *at.size, requires_grad=True)
    pixels = F.interpolate(torch.from_numpy(inside)[None, None].float(), size, mode="nearest-exact") > 0
    F.interpolate(coarse, size, mode="bilinear", align_corners=False)[pixels].sum().backward()
    found = Level(level, at, inside, Grid.of(*size))
    assert torch.equal(found.region.mask, coarse.grad[0, 0] > 0)
    assert found.pixels == found.region.mask.sum()


@pytest.mark.parametrize("level", [1, 1.6, 2.5, 4])
def test_overlap_renders_what_is_read_of_a_part_and_no_more(level):
    size, target = (6, 7), Grid((44, 46), (10, 30), (9, 38))
    at = level_grid(level, target, size, *touched(target, size))
    (top, bottom), (left, right) = touched(target, size, 0)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[top:bottom, left:right] = (
        torch.rand(bottom - top, right - left, generator=torch.Generator().manual_seed(3)) < 0.4
    )
    owner = F.interpolate(inside[None, None].float(), target.cells, mode="nearest-exact")[0, 0] > 0
    coarse = torch.zeros(3, *at.size, requires_grad=True)
    enlarge(coarse, at, target)[:, owner[10:30, 9:38]].sum().backward()
    assert torch.equal(Level(level, at, inside.numpy(), target).region.mask, coarse.grad[0] > 0)


def test_overlap_takes_the_seams_away():
    """Without overlap, enlargement mixes rendered pixels with the input, which differs strongly here."""
    model, lr = tiny(), picture(1, 3, 10, 12)
    a, b = quantiles(model, lr, 0.4, 0.7)
    size = (80, 96)
    dense = render(model, lr, size, Dense())
    results = [render(model, lr, size, CMSR({8: {3: a, 6: b}}, overlap=overlap).render) for overlap in (False, True)]
    (bare, (few,)), (seamless, (more,)) = results
    assert (seamless - dense).square().mean() < 0.5 * (bare - dense).square().mean()
    assert few.share < more.share < few.share + 0.15
    assert few.rendered[-1] == more.rendered[-1]
    again = render(model, lr, size, CMSR({8: {3: a, 6: b}}, overlap=True, queries=50))
    torch.testing.assert_close(again, seamless, atol=1e-5, rtol=0)


def test_settings_name_every_option_that_affects_the_picture():
    options = {"tables": Tables({4: [Table({1: 0.2})]}), "mse_threshold": None}
    plain = CMSR(**options).settings
    assert plain["overlap"] is False  # as the tables state
    assert CMSR(**options, overlap=True).settings == {**plain, "overlap": True}
    assert CMSR(**options, above=2).settings == {**plain, "above": 2}


def test_a_watched_renderer_is_the_renderer():
    first, second = [], []
    renderer = CMSR(Tables({4: [Table({1: 0.2})]}, model="0" * 64))
    watched = renderer.watched(first)
    assert watched.settings == renderer.settings
    model = tiny()
    with pytest.raises(TableError, match="for a model 0000"):
        watched.check(model)
    render(model, picture(1, 3, 5, 6), (40, 48), watched)
    assert len(first) == 1
    render(model, picture(1, 3, 5, 6), (40, 48), watched.watched(second))
    assert (len(first), len(second)) == (1, 1)


@pytest.mark.parametrize("budget", [0.02, 0.3, 0.6, 1.0])
def test_budget_holds_for_every_picture(budget):
    model, lr = tiny(), torch.cat([picture(1, 3, 8, 8), 0.3 * picture(1, 3, 8, 8, seed=2)])
    bounds = quantiles(model, lr, 0.1, 0.3, 0.5, 0.7, 0.9)
    rows = [Table({1: bound}, 10.0**-i, None) for i, bound in zip(range(9, 4, -1), bounds, strict=True)]
    rows += [Table({1: 1.0}, 1e-3, None)]
    tables = Tables({8: rows})
    _, stats = render(model, lr, (64, 64), CMSR(tables, budget=budget).render)
    for i, s in enumerate(stats):
        assert s.share <= budget
        shares = [render(model, lr[i : i + 1], (64, 64), CMSR(Tables({8: [row]})).render)[1][0].share for row in rows]
        assert s.share == max(share for share in shares if share <= budget)


def test_double_precision():
    model = tiny().double()
    lr = picture(1, 3, 6, 6).double()
    (middle,) = quantiles(model, lr, 0.5)
    for overlap in (False, True):
        out = render(model, lr, (36, 36), CMSR({6: {1: middle}}, overlap=overlap))
        assert out.shape == (1, 3, 36, 36)
        assert out.dtype == torch.float64
        single = render(tiny(), lr.float(), (36, 36), CMSR({6: {1: middle}}, overlap=overlap))
        torch.testing.assert_close(single.double(), out, atol=1e-4, rtol=0)


def test_needs_modulated_latents():
    model = SRModel(EDSR(8, 1), LIIF(8, [8])).eval()
    with pytest.raises(ValueError, match=r"CMSR needs a decoder with latent modulation.*LIIF"):
        render(model, picture(1, 3, 4, 4), (24, 24), CMSR({6: {1: 0.3}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": None}, "needs tables.*task=calibrate"),
        ({"tables": {6: {1: 0.3}}, "budget": 0.3, "precision_db": 50}, "give one of"),
        ({"tables": {6: {1: 0.3}}, "budget": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"tables": {6: {1: 0.3}}, "mse_threshold": -1}, "must be positive, got -1"),
        ({"tables": {6: {1: 0.3}}, "precision_db": 50}, "tables of unknown threshold"),
        ({"tables": Tables({6: [Table({1: 0.1}, 1e-5), Table({1: 0.2}, 1e-4)]})}, "several thresholds"),
        ({"tables": Tables({6: [Table({1: 0.1}, 1e-5)]}), "precision_db": 70}, "70.0 dB.*56.0 dB"),
        ({"tables": Tables({6: [Table({1: 0.1}, 1e-5)]}), "precision_db": 50, "overlap": False}, "needs overlap"),
        ({"tables": "nothing.yaml"}, "nothing.yaml: no such tables"),
    ],
)
def test_refuses(options, message):
    with pytest.raises((TableError, ValueError), match=message) as error:
        CMSR(**options)
    assert "\n" not in str(error.value)


def test_threshold_picks_the_cheapest_table_that_keeps_it():
    rows = [Table({1: 0.1}, 1e-6), Table({1: 0.2}, 2e-5), Table({1: 0.3}, 4e-5), Table({1: 0.4}, 1e-4)]
    tables = Tables({6: rows, 12: rows})

    def bound(**options):
        return CMSR(tables, **options).tables.at(6)[0].bounds[1]

    assert bound(mse_threshold=2e-5) == 0.2
    assert bound(mse_threshold=3.9e-5) == 0.2
    assert bound(mse_threshold=1) == 0.4


def test_beyond_the_tables_a_threshold_is_not_promised():
    model, lr = tiny(), picture(1, 3, 6, 5)
    tables = Tables({6: [Table({1: 0.1}, 1e-5)]})
    with pytest.warns(UserWarning, match="beyond x6, the largest scale of the tables"):
        render(model, lr, (48, 40), CMSR(tables, mse_threshold=1e-5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(model, lr, (36, 30), CMSR(tables, mse_threshold=1e-5))
        render(model, lr, (48, 40), CMSR(tables))


@pytest.fixture(scope="module")
def several():
    """Return a model, two pictures (one with half the contrast), their dense rendering and tables at ten bounds."""
    model, lr = tiny(skip="bilinear"), torch.cat([picture(1, 3, 18, 22), 0.5 * picture(1, 3, 18, 22, seed=2)])
    model.decoder.imnet.layers[-1].weight.data *= 0.1
    bounds = quantiles(model, lr, *(i / 10 for i in range(1, 11)))
    rows = [Table({1: 0.0, 4: bound}, 1e-5 * (i + 1)) for i, bound in enumerate(bounds)]
    size = (18 * 15, 22 * 15)
    return model, lr, size, render(model, lr, size, Dense()), Tables({15: rows}, overlap=True)


def db(mean_square):
    return 10 * math.log10(4 / max(mean_square, 4e-10))


def sample(model, lr, size):
    """Return the indices of the sampled pixels."""
    with torch.inference_mode():
        enlargement = model.prepare(lr[:1], size)
        latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
        return Probe(model.decoder, latent, target, cell, latent.intensity()[0], 15, []).index


def test_precision_is_kept_on_each_picture(several):
    model, lr, size, dense, tables = several
    worst, last = (render(model, lr, size, CMSR(Tables({15: [tables.tables[15][i]]}, overlap=True))) for i in (-1, 4))
    low, high = (db((x - dense)[0].square().mean().item()) for x in (worst, last))
    shares = []
    for asked in torch.linspace(low - 1, high - 1, 4).tolist():
        out, stats = render(model, lr, size, CMSR(tables, precision_db=asked).render)
        kept = [db(x) for x in (out - dense).square().mean(dim=(1, 2, 3)).tolist()]
        assert min(kept) >= asked
        sampled = (out - dense).flatten(2)[..., sample(model, lr, size)].square().mean(dim=(1, 2)).tolist()
        assert [s.precision_db for s in stats] == pytest.approx([db(x) for x in sampled], abs=0.01)
        assert all(s.share == (sum(s.rendered) + s.tried) / s.pixels for s in stats)
        shares.append(stats[0].share)
    assert shares == sorted(shares)
    assert shares[0] < 0.7 < shares[-1]


def test_precision_out_of_the_tables_reach_is_kept_by_dense_rendering(several):
    """The table's threshold promises the precision, but the table does not keep it on this picture."""
    model, lr, size, dense, _ = several
    many = Tables({15: [Table({1: 1.0}, 1e-9)]}, overlap=True)
    out, stats = render(model, lr, size, CMSR(many, precision_db=90).render)
    torch.testing.assert_close(out, dense, atol=1e-6, rtol=0)
    assert [s.levels for s in stats] == [(15,), (15,)]
    assert all(1 < s.share < 1.5 for s in stats)


def test_the_sample_says_what_whole_pictures_would(several):
    model, lr, size, dense, _ = several
    with torch.inference_mode():
        enlargement = model.prepare(lr[:1], size)
        latent, target, cell = enlargement.latent(), enlargement.target, enlargement.cell
        strength = latent.intensity()[0]
        probe = Probe(model.decoder, latent, target, cell, strength, 15, [1, 2.5, 6, 15, 24])
        assert sorted(probe.squares) == [1, 2.5, 6]
        assert len(probe.index.unique()) == probe.count
        for level, squares in probe.squares.items():
            at = Grid.of(math.floor(18 * level), math.floor(22 * level))
            own = model.decoder.cell(at, (18, 22), 1, lr.device)
            coarse = F.interpolate(Dense()(model.decoder, latent, at, own), size, mode="bilinear", align_corners=False)
            expected = (coarse - dense[:1]).square().mean(dim=1).flatten()[probe.index]
            torch.testing.assert_close(squares, expected, atol=1e-6, rtol=1e-3)
        middle = strength.median().item()
        owner = F.interpolate(strength[None, None], size, mode="nearest-exact").flatten()[probe.index]
        mixed = torch.where(owner < middle, probe.squares[1], probe.squares[2.5])
        assert torch.equal(probe.expected(Table({1: middle, 2.5: 1.0})), mixed)
        assert probe.measured(dense[0]).max() < 1e-10
