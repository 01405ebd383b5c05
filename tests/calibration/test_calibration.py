import itertools
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lmf import checkpoint
from lmf.calibration.allocation import allocate
from lmf.calibration.estimators import Errors, Pooled, Released
from lmf.calibration.loop import Pictures, calibrate
from lmf.calibration.measurement import measure, outcome
from lmf.data import EvalSet, Folder
from lmf.renderers import CMSR, Dense, Tables
from lmf.renderers.cmsr.tables import Table, psnr
from tests import golden

LEVELS = [1, 1.5, 2, 3, 4, 6, 8, 12]


@pytest.mark.parametrize(
    ("name", "largest", "skip"), [("lm_liif", 1.0, True), ("lm_lte", 0.5, True), ("lm_ciaosr", 0.5, False)]
)
def test_the_authors_tables(shared, name, largest, skip):
    path = shared / "golden" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        theirs = json.loads(file.metadata()["table_x4_mse5e-3"])
    g = golden.load(path)
    model, estimator = g.model(), Released([4], LEVELS, [5e-3], largest, skip)
    state = estimator.empty()
    for i in range(2):
        lr = golden.image(g.tensors[f"table_lr_{i}"])[0] / 2 + 0.5
        estimator.update(state, 4, measure(model, lr, (96, 128), LEVELS, clip=estimator.clip, skip=estimator.skip))
    (table,) = estimator.propose([state])[4]
    assert table.bounds == pytest.approx({float(level): bound for level, bound in theirs.items()})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = checkpoint.build(
        {
            "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 1},
            "decoder": {
                "_target_": "lmf.decoders.LMLIIF",
                "in_channels": 8,
                "depth": 2,
                "hyper": [12],
                "skip": "bilinear",
            },
        }
    ).eval()
    model.decoder.imnet.layers[-1].weight.data *= 0.1  # stays close to the input, like a trained model
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return seven small crops of a photograph."""
    from skimage.data import astronaut

    folder = tmp_path_factory.mktemp("photos")
    for i in range(7):
        crop = astronaut()[40 * i : 40 * i + 60, 50 * i : 50 * i + 72]
        Image.fromarray(crop).save(folder / f"{i}.png")
    return folder


def test_tables_are_tried_as_they_will_be_used(model):
    lr = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        strength = model.prepare(lr[None] * 2 - 1, (52, 59)).latent().intensity()
    a, b, c = strength.quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    tables = [Table({1: a, 3: b}), Table({2: c}), Table({1: 9.0}), Table({})]
    for overlap in (False, True):
        squares, rendered = outcome(model, lr, (52, 59), tables, overlap)
        for i, table in enumerate(tables):
            with torch.inference_mode():
                enlargement = model.prepare(lr[None] * 2 - 1, (52, 59))
                args = model.decoder, enlargement.latent(), enlargement.target, enlargement.cell
                out, (stats,) = CMSR(Tables({9: [table]}), overlap=overlap, dense="never").render(*args)
                assert squares[i] == pytest.approx((out - Dense()(*args)).square().sum().item(), rel=1e-3, abs=1e-6)
                assert rendered[i] == sum(stats.rendered)


def test_measured_error_is_that_of_pictures(model):
    """The sums over latents equal those over whole pictures."""
    lr = torch.rand(1, 3, 7, 9)
    errors = measure(model, lr[0], (42, 54), LEVELS)
    lr = lr * 2 - 1
    assert sorted(errors.squares) == [1, 1.5, 2, 3, 4]
    assert errors.pixels.sum() == 42 * 54
    dense = model.render(lr, (42, 54)).detach()
    coarse = torch.nn.functional.interpolate(
        model.render(lr, (21, 27)).detach(), (42, 54), mode="bilinear", align_corners=False
    )
    # The latent uses the target's cell for both levels. Up to x4 the decoder does not clip the level's cell.
    with torch.inference_mode():
        cell = model.decoder.cell(model.target((7, 9), (42, 54)), (7, 9), 1, lr.device)
        latent = model.latent(lr, cell)
        grid = model.target((7, 9), (21, 27))
        own = model.decoder.cell(grid, (7, 9), 1, lr.device)
        coarse = Dense()(model.decoder, latent, grid, own)
    coarse = torch.nn.functional.interpolate(coarse, (42, 54), mode="bilinear", align_corners=False)
    assert errors.squares[3].sum() == pytest.approx((coarse - dense).square().sum().item(), rel=1e-4)


def brute_force(squares, pixels, cost, price):
    levels = range(len(cost))
    choices = (c for c in itertools.product(levels, repeat=len(pixels)) if list(c) == sorted(c))

    def total(choice):
        return sum(cost[n] * pixels[b] + price * squares[n][b] for b, n in enumerate(choice))

    return min(total(c) for c in choices), total


@pytest.mark.parametrize("price", [0.0, 0.3, 1.0, 5.0, 100.0])
def test_allocation_is_the_best_there_is(price):
    rng = np.random.default_rng(0)
    for _ in range(20):
        squares = np.sort(rng.random((3, 6)), axis=0)[::-1].copy()
        squares[-1] = 0
        pixels, cost = rng.random(6), np.array([0.05, 0.3, 1.0])
        chosen = allocate(squares, pixels, cost, np.array([price]))[0]
        assert list(chosen) == sorted(chosen)
        best, total = brute_force(squares, pixels, cost, price)
        assert total(chosen) == pytest.approx(best)


def test_allocation_where_nothing_was_seen_is_careful():
    squares, pixels = np.zeros((3, 6)), np.array([0, 1.0, 0, 1.0, 0, 0])
    squares[0, 3] = 1.0
    chosen = allocate(squares, pixels, np.array([0.1, 0.3, 1.0]), np.array([1.0, np.inf]))
    assert chosen[0].tolist() == [0, 0, 1, 1, 2, 2]
    squares[:2, 1] = 1e-9
    assert allocate(squares, pixels, np.array([0.1, 0.3, 1.0]), np.array([np.inf]))[0].tolist() == [2] * 6


def pooled(**options):
    return Pooled([6, 8], LEVELS, **{"thresholds": [1e-7, 1e-6, 1e-5, 1e-4], **options})


def sets(folder, **options):
    return [Pictures(Folder(folder), scale, **options) for scale in (6, 8)]


def test_promise_is_kept_on_the_pictures_it_was_learnt_from(model, photos, tmp_path):
    tables = calibrate(model, sets(photos), pooled(), tmp_path / "t.yaml")
    assert [p.name for p in tmp_path.iterdir()] == ["t.yaml"]
    assert Tables.of(tmp_path / "t.yaml") == tables
    assert tables.images == 7
    shares = [t.share for t in tables.tables[6.0]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    for threshold, share in zip(pooled().thresholds, shares, strict=True):
        renderer, precision, rendered = CMSR(tables, mse_threshold=threshold, dense="never"), [], 0.0
        for lr, size in sets(photos)[0]:
            lr = lr[None] * 2 - 1
            target = model.target(lr.shape[-2:], size)
            cell = model.decoder.cell(target, lr.shape[-2:], 1, lr.device)
            with torch.inference_mode():
                latent = model.latent(lr, cell)
                out, (stats,) = renderer.render(model.decoder, latent, target, cell)
                mse = (out - Dense()(model.decoder, latent, target, cell)).square().mean().item()
            precision.append(psnr(max(mse, 1e-12)))
            rendered += stats.share / 7
        assert np.mean(precision) > psnr(threshold) - 1  # the estimate ignores the boundaries between levels
        assert rendered == pytest.approx(share, abs=0.02)


def test_every_picture_is_decoded_once(photos, monkeypatch):
    pictures, read = Pictures(Folder(photos), 6), []
    get = EvalSet.__getitem__
    monkeypatch.setattr(EvalSet, "__getitem__", lambda self, index: (read.append(index), get(self, index))[1])
    lr, size = pictures[2]
    assert (tuple(lr.shape), size, read) == ((3, 10, 12), (60, 72), [2])


class Interrupted(Exception):
    pass


def test_interrupted_and_shared_work_gives_the_same_tables(model, photos, tmp_path, monkeypatch):
    whole = calibrate(model, sets(photos), pooled(), tmp_path / "whole.yaml")
    real, calls = Pooled.update, itertools.count()

    def fails_at_fifth(*args):
        if next(calls) == 5:
            raise Interrupted
        real(*args)

    monkeypatch.setattr(Pooled, "update", fails_at_fifth)
    with pytest.raises(Interrupted):
        calibrate(model, sets(photos), pooled(), tmp_path / "parts.yaml")
    assert not (tmp_path / "parts.yaml").exists()
    done = itertools.count()
    monkeypatch.setattr(Pooled, "update", lambda *args: (next(done), real(*args)))
    barrier = threading.Barrier(2)

    def rank(number):
        return calibrate(
            model, sets(photos), pooled(), tmp_path / "parts.yaml", rank=number, world_size=2, barrier=barrier.wait
        )

    with ThreadPoolExecutor(2) as pool:
        tables, same = pool.map(rank, range(2))
    assert same == tables
    assert next(done) == 14 - 5
    assert tables == whole
    assert (tmp_path / "parts.yaml").read_text() == (tmp_path / "whole.yaml").read_text()


def test_other_pictures_or_weights_start_anew(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Pooled, "propose", lambda *_: (_ for _ in ()).throw(Interrupted))
    for options in ({}, {"limit": 3}, {"reduce": False, "crop": 12}):
        with pytest.raises(Interrupted):
            calibrate(model, sets(photos, **options), pooled(), tmp_path / "t.yaml")
    assert len(list(tmp_path.iterdir())) == 3


def test_work_is_continued_only_where_the_result_is_the_same(model, photos, tmp_path, monkeypatch):
    """Other estimator options, files, classes or versions get another folder."""
    monkeypatch.setattr(Pooled, "propose", lambda *_: (_ for _ in ()).throw(Interrupted))
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)

    class Weighted(Pooled):
        def __init__(self, weights, *args):
            super().__init__(*args)
            self.weights = weights

        @property
        def settings(self):
            return {**super().settings, "weights": self.weights}

    def interrupted(estimator, **options):
        with pytest.raises(Interrupted):
            calibrate(model, sets(folder, limit=1), estimator, tmp_path / "t.yaml", **options)
        return len(list(tmp_path.glob(".t.yaml.*")))

    common = [6, 8], LEVELS, [1e-5]
    estimators = [Pooled(*common), *(Weighted(weights, *common) for weights in (3, "high", {"low": 2}))]
    assert [interrupted(estimator) for estimator in estimators * 2] == [1, 2, 3, 4, 4, 4, 4, 4]
    assert interrupted(Pooled(*common), version="later") == 5
    with Image.open(folder / "0.png") as picture:
        changed = picture.transpose(Image.Transpose.ROTATE_180)
    changed.save(folder / "0.png")
    assert interrupted(Pooled(*common)) == 6


def test_released_settings_cover_its_options():
    given = {"scales": [4], "levels": [1, 2], "thresholds": [1e-3], "largest": 1.0, "skip": True}
    changed = {"scales": [6], "levels": [1, 3], "thresholds": [1e-4], "largest": 0.5, "skip": False}
    found = [dict(Released(**{**given, name: changed[name]}).settings) for name in (*given,)]
    assert all(settings != dict(Released(**given).settings) for settings in found)


def test_a_second_run_waits_for_the_first(model, photos, tmp_path, monkeypatch):
    real, entered, release = Pooled.update, threading.Semaphore(0), threading.Event()

    def waits(*args):
        entered.release()
        assert release.wait(60)
        real(*args)

    monkeypatch.setattr(Pooled, "update", waits)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(calibrate, model, sets(photos), pooled(), tmp_path / "t.yaml") for _ in range(2)]
        assert entered.acquire(timeout=60)
        assert not entered.acquire(timeout=2), "both work in the same folder"
        release.set()
        first, second = (run.result(timeout=120) for run in runs)
    assert first == second == Tables.of(tmp_path / "t.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]


def test_devices_without_float64(model):
    """Errors are summed in float64 on the CPU whatever the device."""
    lr, size = torch.rand(3, 7, 9), (42, 54)
    expected, types = measure(model, lr, size, LEVELS), []
    cpu = torch.Tensor.cpu

    def moved(tensor):
        types.append(tensor.dtype)
        return cpu(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", moved)
        found = measure(model, lr, size, LEVELS)
    assert torch.float64 not in types
    assert found.squares[3].dtype == np.float64
    for level, squares in expected.squares.items():
        np.testing.assert_array_equal(found.squares[level], squares)


def synthetic(estimator, factor, unit=1):
    """Return 32 pictures whose errors grow with intensity; the last one's are ``factor`` times as large."""
    states = []
    for i in range(32):
        rng, state = np.random.default_rng(i), estimator.empty()
        intensity = rng.uniform(0.05, 0.8, 4000)
        noise = rng.uniform(0.5, 2) * (factor if i == 31 else 1)
        squares = {s: noise * 1e-3 * intensity**4 * (6 / s - 1) * 108 for s in (1, 2, 3, 4)}
        estimator.update(state, 6, Errors(unit * intensity, np.full(4000, 36.0), squares))
        states.append(state)
    return states


def outcomes(estimator, proposed, states):
    """Return the outcome of rendering the pictures of `synthetic` with the ``proposed`` tables."""
    centre, found = np.minimum(estimator.edges, 2 * estimator.edges[-2]) * 0.98, []
    for state in states:
        pixels, squares = state["pixels"][0], np.pad(state["squares"][0], ((0, 1), (0, 0)))
        rows = []
        for table in proposed[6]:
            bands = table.intervals(6)
            level = [next(s for s, low, high in bands if low <= m <= high) for m in centre]
            at = [estimator.levels.index(s) if s < 6 else -1 for s in level]
            rows.append((squares[at, range(len(at))].sum(), (pixels * (np.array(level) / 6) ** 2).sum()))
        squares, rendered = (np.array([column]) for column in zip(*rows, strict=True))
        found.append({"squares": squares, "rendered": rendered, "pixels": np.array([pixels.sum()])})
    return found


def test_intensities_may_exceed_one():
    """Multiplying all intensities by eight multiplies the bounds by eight."""
    levels, thresholds = [1, 2, 3, 4], [1e-6 * 1.6**i for i in range(20)]
    found = []
    for factor in (1, 8):
        estimator = Pooled([6], levels, thresholds)
        found.append(estimator.propose(synthetic(estimator, 1, factor))[6])
    for one, eight in zip(*found, strict=True):
        assert eight.bounds == pytest.approx({level: 8 * bound for level, bound in one.bounds.items()})
    assert max(max(table.bounds.values(), default=0) for table in found[1]) > 2


def test_one_odd_picture_does_not_decide():
    estimator = Pooled([6], [1, 2, 3, 4], [1e-6 * 1.6**i for i in range(20)])
    results = []
    for factor in (1, 1000):
        states = synthetic(estimator, factor)
        proposed = estimator.propose(states)
        results.append(estimator.select(proposed, outcomes(estimator, proposed, states))[6])
    usual, odd = ([table.share for table in tables] for tables in results)
    assert usual == sorted(usual, reverse=True)
    assert usual[0] > 0.5
    assert usual[-1] < 0.1
    for a, b in zip(usual, odd, strict=True):
        assert b < a + 0.2
