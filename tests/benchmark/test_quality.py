"""Tests of the PSNR that is measured beside the cost."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from lmf import SRModel, io
from lmf.app import pipeline
from lmf.benchmark import quality, runner
from lmf.data import EvalSet, Folder
from lmf.decoders import LIIF, Bicubic
from lmf.encoders import EDSR, Identity

from ..conftest import TINY


@pytest.fixture
def photos(tmp_path):
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        io.write(folder / f"{n}.png", random.integers(0, 256, (30 + n, 36, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def models():
    torch.manual_seed(0)
    return {"bicubic": SRModel(Identity(), Bicubic()), "liif": SRModel(EDSR(8, 1), LIIF(8, [16]))}


def test_psnr_is_that_of_scikit_image(models, photos):
    images = EvalSet("photos", Folder(photos), scale=2, protocol="raw", lr="pil")
    for averaged in (False, True):
        found = []
        for item in images:
            size = tuple(item["hr"].shape[1:])
            with torch.no_grad():
                sr = models["liif"].render(item["lr"][None] * 2 - 1, size, self_ensemble=averaged)[0]
            shown = (sr.double() / 2 + 0.5).clamp(0, 1).numpy()
            found.append(peak_signal_noise_ratio(item["hr"].double().numpy(), shown, data_range=1))
        assert quality.mean_psnr(models["liif"], images, averaged) == pytest.approx(np.mean(found), abs=1e-5)


def test_a_point_for_each_model_scale_and_set(models, photos):
    cases = runner.plan(models, [(4, 6), (8, 8)], [2, 3], ["fused"], self_ensembles=[False, True])
    rows = [replace(row, total_s=0.5 + n) for n, row in enumerate(runner.count(models, cases))]
    options = {"protocol": "benchmark", "lr": "pil", "limit": 1}
    sets = [EvalSet(name, Folder(photos), scale=s, **options) for name, s in (("a", 2), ("b", 2), ("a", 3))]
    points = quality.measure(models, rows, sets)
    keys = [(p.model, p.self_ensemble, p.set, p.scale) for p in points]
    several = [("a", 2), ("b", 2), ("a", 3)]
    assert sorted(keys) == sorted((m, e, s, x) for m in models for e in (False, True) for s, x in several)
    own = {(row.model, row.self_ensemble, row.scale): row for row in rows if row.lr == (4, 6)}
    for point in points:
        row = own[point.model, point.self_ensemble, point.scale]
        assert (point.seconds, point.gmacs, point.images) == (row.total_s, row.macs / 1e9, 1)


def test_one_command_measures_and_plots(compose, photos, tmp_path, capsys):
    data = ("data=folder", f"data.root={photos}", f"data.val_root={photos}", "data.limit=2")
    task = ("task=benchmark", "task.models=[bicubic,liif]", "task.sizes=[[6,8]]", "task.scales=[2]", "task.repeats=1")
    pipeline.run(compose(*TINY, *data, *task, "task.quality=true", "self_ensemble=[false,true]"))
    output = tmp_path / "run"
    points = json.loads((output / "quality.json").read_text())
    wanted = [("bicubic", False), ("bicubic", True), ("liif", False), ("liif", True)]
    assert [(point["model"], point["self_ensemble"]) for point in points] == wanted
    assert points[0]["psnr"] == pytest.approx(points[1]["psnr"], abs=1e-3)
    assert all(point["seconds"] > 0 and point["images"] == 2 for point in points)
    assert points[3]["gmacs"] == pytest.approx(8 * points[2]["gmacs"])
    with (output / "quality.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [point["psnr"] for point in points]
    assert io.read_size(output / "quality_folder_x2.png")[0] > 300
    assert (output / "quality_folder_x2.pdf").read_bytes().startswith(b"%PDF")
    assert "liif, self-ensemble" in capsys.readouterr().out


def test_the_plot_leads_from_a_model_to_its_self_ensemble():
    point = quality.Point("ours", False, "fused", "set5", 4, 5, 32.0, 21.4, 0.1)
    bicubic = replace(point, model="bicubic", psnr=28.4, gmacs=0.0, seconds=0.002)
    averaged = replace(bicubic, self_ensemble=True), replace(point, self_ensemble=True, psnr=32.2, seconds=0.8)
    figure = quality.plot([*averaged, point, bicubic])
    (axes,) = figure.axes
    line = axes.lines[0]
    assert [*line.get_xdata()] == [0.1, 0.8]
    assert [*line.get_ydata()] == [32.0, 32.2]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours 32.00", "self-ensemble"]
    assert axes.get_title() == "set5, x4; bicubic 28.40 dB in 0.002 s"
    assert axes.get_xscale() == "log"
