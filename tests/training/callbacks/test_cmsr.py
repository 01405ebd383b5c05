import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lmf import checkpoint
from lmf.app import pipeline
from lmf.app.tasks.common import make_renderer
from lmf.benchmark.cost import count
from lmf.renderers import CMSR, Tables
from lmf.renderers.cmsr import tables
from lmf.training.callbacks.cmsr import NAMES, CMSRCallback
from tests.conftest import TINY

DATA = ("data.limit=2", "data.crop=60", "scale=6")


@pytest.fixture
def run(compose, tmp_path):
    """Return a trained run with CMSR tables for x6."""
    pipeline.run(compose(*TINY, output=tmp_path / "fit"))
    calibrate = ("task=calibrate", f"ckpt_path={tmp_path / 'fit'}", "scales=[6]", "limit=3", "crop=60")
    pipeline.run(compose(*TINY, *calibrate, output=tmp_path / "calibrate"))
    return tmp_path / "fit"


def results(compose, run, output, *overrides):
    pipeline.run(compose(*TINY, "task=test", f"ckpt_path={run}", *DATA, *overrides, output=output))
    (row,) = json.loads((output / "results.json").read_text())
    return row


def test_calibrate_then_measure(compose, run, tmp_path):
    path = tables.beside(checkpoint.find(run))
    assert Tables.of(path).images == 3
    dense = results(compose, run, tmp_path / "dense")
    assert dense["scale"] == 6
    asked = results(compose, run, tmp_path / "cmsr", "renderer=cmsr", "renderer.precision_db=40")
    assert asked["dense_psnr"] == pytest.approx(dense["psnr"], abs=1e-3)
    assert asked["psnr_vs_dense"] >= asked["least_psnr_vs_dense"] >= 40
    assert 0 < asked["rendered_share"] <= 1.1
    cost = count(checkpoint.load(run), (10, 10), size=(60, 60))
    assert asked["dense_gmacs"] == pytest.approx(cost.total_macs / 1e9, rel=1e-5)
    spared = (1 - asked["rendered_share"]) * cost.render_macs / 1e9
    assert asked["gmacs"] == pytest.approx(cost.total_macs / 1e9 - spared, rel=1e-5)
    assert asked["render_s"] > 0
    assert len(list((tmp_path / "cmsr" / "level_maps").glob("bundled_x6_*.png"))) == 2
    within = results(compose, run, tmp_path / "budget", "renderer=cmsr", "renderer.budget=0.1")
    assert within["rendered_share"] <= 0.1


def test_a_self_ensemble_is_compared_with_a_dense_one(compose, run, tmp_path):
    dense = results(compose, run, tmp_path / "dense", "self_ensemble=true")
    single = results(compose, run, tmp_path / "single")
    cmsr = results(compose, run, tmp_path / "cmsr", "self_ensemble=true", "renderer=cmsr", "renderer.budget=0.1")
    assert cmsr["dense_psnr"] == pytest.approx(dense["psnr"], abs=1e-3)
    assert abs(dense["psnr"] - single["psnr"]) > 1e-3
    assert cmsr["psnr"] != cmsr["dense_psnr"]
    assert cmsr["rendered_share"] <= 0.1
    cost = count(checkpoint.load(run), (10, 10), size=(60, 60))
    assert cmsr["dense_gmacs"] == pytest.approx(8 * cost.total_macs / 1e9, rel=1e-5)


def test_devices_without_float64(monkeypatch):
    """Sums are reduced in the widest type of the device."""
    reduced = []

    def reduce(values, reduce_op):
        reduced.append(values.dtype)
        return values

    monkeypatch.setattr("lmf.training.callbacks.cmsr.precise", lambda device: torch.float32)
    callback, row = CMSRCallback("."), SimpleNamespace(values={})
    callback.sums, callback.least = [torch.full((8,), 3.0, dtype=torch.float64)], [41.5]
    module = SimpleNamespace(
        results=[row],
        device=torch.device("cpu"),
        model=SimpleNamespace(renderer=SimpleNamespace(multi_scale=True)),
    )
    callback.on_test_epoch_end(SimpleNamespace(strategy=SimpleNamespace(reduce=reduce)), module)
    assert reduced == [torch.float32] * 2
    assert row.values == {**dict.fromkeys(NAMES, 1.0), "least_psnr_vs_dense": 41.5}


def test_tables_of_another_model_are_refused(compose, run, tmp_path, caplog):
    path = tables.beside(checkpoint.find(run))
    path.write_text(path.read_text().replace("model: ", "model: 00"))
    with pytest.raises(SystemExit):
        results(compose, run, tmp_path / "cmsr", "renderer=cmsr", "renderer.precision_db=40")
    assert "the tables are for a model 00" in caplog.text


def test_the_authors_tables_are_taken_on_trust(compose, run, tmp_path, caplog):
    (tmp_path / "theirs.yaml").write_text("{8: {1: 0.01, 2: 1}}")
    row = results(compose, run, tmp_path / "cmsr", "renderer=cmsr", f"renderer.tables={tmp_path / 'theirs.yaml'}")
    assert "do not name the model" in caplog.text
    assert not CMSR(tmp_path / "theirs.yaml").overlap
    assert math.isfinite(row["psnr_vs_dense"])


def test_without_tables_one_line_says_what_to_do(compose, tmp_path, caplog):
    pipeline.run(compose(*TINY, output=tmp_path / "fit"))
    with pytest.raises(SystemExit):
        results(compose, tmp_path / "fit", tmp_path / "cmsr", "renderer=cmsr", "renderer.precision_db=40")
    assert "no such tables; create them with lmf task=calibrate" in caplog.text


def test_enlarging_says_what_was_rendered(compose, run, tmp_path, caplog):
    caplog.set_level("INFO")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (44, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    upscale = ("task=upscale", f"ckpt_path={run}", f"input={tmp_path / 'a.png'}", "scale=6", "renderer=cmsr")
    levels = ("renderer.budget=0.1", "renderer.dense=never", f"output={tmp_path}")
    pipeline.run(compose(*TINY, *upscale, *levels, output=tmp_path / "one"))
    assert re.search(r"a_x6.png 300x264, \d+% of the pixels rendered$", caplog.text, re.MULTILINE)
    promise = ("renderer.precision_db=40", "renderer.dense=never", f"output={tmp_path / 'two'}")
    pipeline.run(compose(*TINY, *upscale, *promise, output=tmp_path / "two"))
    assert re.search(
        r"% of the pixels rendered, [\d.]+ dB from dense rendering \(sampled\)$", caplog.text, re.MULTILINE
    )
    densely = ("renderer.budget=0.1", "renderer.above=6", f"output={tmp_path / 'three'}")
    pipeline.run(compose(*TINY, *upscale, *densely, output=tmp_path / "three"))
    assert caplog.text.rstrip().splitlines()[-2].endswith("rendered densely: the scale is at most 6")


def test_tasks_that_measure_never_render_densely_instead(compose, run, tmp_path):
    """Unless it is asked for."""
    model, cases = checkpoint.load(run), {"test": "never", "benchmark": "never", "upscale": "measured"}
    for task, expected in cases.items():
        more = ["input=a.png", "scale=6"] if task == "upscale" else []
        config = compose(*TINY, f"task={task}", "renderer=cmsr", "renderer.budget=0.1", *more, output=tmp_path)
        assert make_renderer(config, model, checkpoint.find(run)).settings["dense"] == expected
        config.renderer.dense = "share"
        assert make_renderer(config, model, checkpoint.find(run)).settings["dense"] == "share"


def test_every_job_has_its_own_wandb_run(compose, run, tmp_path):
    pytest.importorskip("wandb")
    for name in ("one", "two"):
        results(compose, run, tmp_path / name, "logger.wandb.mode=offline")
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))) == 1
