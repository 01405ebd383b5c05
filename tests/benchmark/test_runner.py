"""Test the measurements of benchmarks, their order and the results derived from them."""

import csv
import io
import json
import time

import pytest
import torch
from PIL import Image
from rich.console import Console

from lmf import SRModel, kernels
from lmf.app import pipeline
from lmf.benchmark import cost, plots, runner, tables, throughput
from lmf.benchmark.roofline import measure_peak
from lmf.decoders import LIIF, LMLIIF
from lmf.encoders import EDSR
from lmf.kernels import ops

from ..conftest import TINY


@pytest.fixture
def models():
    encoder = EDSR(8, 1)
    return {"liif": SRModel(encoder, LIIF(8, [16])), "lm_liif": SRModel(encoder, LMLIIF(8, hyper=[16]))}


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(runner, "measure_peak", lambda device: (1e10, 1e9))


@pytest.fixture
def fused():
    if kernels.ops.implementation(torch.zeros(1), LMLIIF(8).imnet.weights(), "linear") is kernels.reference:
        pytest.skip("needs a C++ compiler")


def seconds(value):
    return lambda *args: [value, 2 * value, 3 * value, 6 * value]


def test_every_combination_once(models):
    cases = runner.plan(models, [(4, 6), (8, 8)], [2, 3.5], ["fused", "reference"])
    own = [(c.model, c.backend) for c in cases if (c.lr, c.scale) == ((8, 8), 3.5)]
    assert own == [("liif", "torch"), ("lm_liif", "fused"), ("lm_liif", "reference")]
    assert len(cases) == 3 * 4
    several = runner.plan(models, [(4, 6)], [2], ["fused", "reference"], encoders=["winograd", "bf16"])
    assert [(c.model, c.backend, c.encoder) for c in several] == [
        *(("liif", "torch", encoder) for encoder in ("winograd", "bf16")),
        *(("lm_liif", "fused", encoder) for encoder in ("winograd", "bf16")),
        ("lm_liif", "reference", "torch"),
    ]
    rows = runner.count(models, several)
    assert [row.encoder for row in rows] == [case.encoder for case in several]
    assert [runner.label(row) for row in rows[2:]] == ["fused", "fused, bf16 encoder", "reference"]
    with pytest.raises(ValueError, match="winograd, torch, bf16, got int8"):
        runner.plan(models, [(4, 6)], [2], ["fused"], encoders=["int8"])
    with pytest.raises(ValueError, match="fused, reference, got cuda"):
        runner.plan(models, [(4, 6)], [2], ["cuda"])


def test_counts_are_those_of_a_model(models):
    (row,) = runner.count(models, [runner.Case("liif", "torch", (4, 6), 2)])
    own = cost.count(models["liif"], (4, 6), scale=2)
    assert (row.macs, row.size, row.encoder_params) == (own.total_macs, (8, 12), own.encoder_params)
    assert row.total_s is None
    weights = 4 * (3 * 8 * 9 + 8 + 3 * (8 * 8 * 9 + 8))
    assert row.encoder_bytes == 4 * (3 * 24 + 8 * 24) + weights
    assert row.render_bytes == 4 * (9 * 8 * 24 + 3 * 24 + 3 * 96)  # unfolded features, image, picture


def test_in_turns(models, monkeypatch):
    order = []
    monkeypatch.setattr(runner, "measure_peak", lambda device: [order.append("machine"), (1e9, 1e9)][1])
    monkeypatch.setattr(runner, "once", lambda model, case, *a: [order.append(case.model), seconds(0.1)()][1])
    cases = [runner.Case("liif", "torch", (4, 6), 2), runner.Case("lm_liif", "fused", (4, 6), 2)]
    runner.measure(models, cases, repeats=2)
    assert order == ["machine", "liif", "lm_liif"] * 3


def test_what_follows_from_seconds(models, monkeypatch):
    runs = iter([9.0, 1.0, 4.0, 2.0])
    monkeypatch.setattr(runner, "once", lambda *a: seconds(next(runs))())
    monkeypatch.setattr(runner, "measure_peak", lambda device: (2e6, 1e7))
    (row,) = runner.measure(models, [runner.Case("liif", "torch", (4, 6), 2)], repeats=3)
    assert (row.encoder_s, row.latent_s, row.render_s, row.total_s, row.repeats) == (2, 4, 6, 12, 3)  # medians
    assert row.gflops == pytest.approx(2e-9 * row.macs / 12)
    assert row.render_gflops == pytest.approx(2e-9 * row.render_macs / 6)
    # This machine limits encoder and rendering by arithmetic, and the latent, which has no MACs, by bandwidth.
    assert row.floor_s == pytest.approx(row.encoder_macs / 1e6 + row.latent_bytes / 1e7 + row.render_macs / 1e6)


def test_precisions_side_by_side(models, monkeypatch):
    seen = []

    def once(model, case, device):
        seen.append(case.precision)
        return seconds(0.5 if case.precision == "32-true" else 0.25)()

    def measure_peak(device):
        return (2e9 if torch.is_autocast_enabled("cpu") else 1e9), 1e9

    monkeypatch.setattr(runner, "once", once)
    monkeypatch.setattr(runner, "measure_peak", measure_peak)
    cases = runner.plan({"liif": models["liif"]}, [(4, 6)], [2], ["fused"], ["32-true", "bf16-mixed"])
    full, half = runner.measure(models, cases, repeats=2)
    assert seen == ["32-true", "bf16-mixed"] * 3
    assert (full.precision, full.total_s, full.peak_gflops) == ("32-true", 3, 1)
    assert (half.precision, half.total_s, half.peak_gflops) == ("bf16-mixed", 1.5, 2)
    assert full.macs == half.macs
    assert runner.label(half) == "torch, bf16-mixed"


def test_single_passes_and_self_ensembles_side_by_side(models, monkeypatch):
    seen = []
    original = cost.stage_times
    monkeypatch.setattr(cost, "stage_times", lambda *a: [seen.append(a[3]), original(*a)][1])
    cases = runner.plan({"liif": models["liif"]}, [(4, 6)], [2], ["fused"], self_ensembles=[False, True])
    single, averaged = runner.measure(models, cases, repeats=1)
    assert seen == [False, True] * 2
    assert (single.name, averaged.name) == ("liif", "liif, self-ensemble")
    for what in ("macs", "encoder_macs", "latent_macs", "render_macs", "encoder_bytes", "latent_bytes", "render_bytes"):
        assert getattr(averaged, what) == 8 * getattr(single, what)
    assert averaged.size == single.size
    console = Console(width=200, file=io.StringIO())
    console.print(*tables.benchmark_tables([single, averaged]))
    assert "liif, self-ensemble" in console.file.getvalue()


def test_a_long_case_is_measured_once(models, machine, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "once", lambda *a: [calls.append(1), seconds(1.0)()][1])
    (row,) = runner.measure(models, [runner.Case("liif", "torch", (4, 6), 2)], repeats=3, budget=0)
    assert (row.repeats, len(calls), row.total_s) == (1, 1, 6)


def test_backends_are_what_they_say(models, fused, machine, monkeypatch):
    used = []
    original = cost.stage_times
    monkeypatch.setattr(cost, "stage_times", lambda *a: [used.append(ops.forced), original(*a)][1])
    rows = runner.measure(models, runner.plan(models, [(6, 5)], [2], runner.BACKENDS), repeats=1)
    assert used == [None, "cpu", "reference"] * 2
    for row in rows:
        assert 0 < row.encoder_s + row.latent_s + row.render_s <= row.total_s * 1.001
        assert row.peak_bytes is None or 0 <= row.peak_bytes < row.process_bytes
    assert ops.forced is None


def test_the_roof_is_out_of_reach_but_near():
    flops, bandwidth = measure_peak(torch.device("cpu"))
    n = 700
    a = torch.rand(n, n)
    start = time.perf_counter()
    for _ in range(3):
        a @ a
    assert 2 * n**3 * 3 / (time.perf_counter() - start) < 5 * flops
    assert 1e8 < bandwidth < 1e13


def test_files_hold_one_row_per_case(models, machine, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "once", seconds(0.25))
    rows = runner.measure(models, runner.plan(models, [(4, 6), (8, 6)], [2, 3], ["fused"]), repeats=1)
    runner.save(rows, tmp_path)
    records = json.loads((tmp_path / "benchmark.json").read_text())
    names = ("model", "backend", "lr", "scale", "encoder_s", "latent_s", "render_s", "total_s", "macs", "peak_bytes")
    assert all(name in record for record in records for name in names)
    assert [(r["model"], r["lr"], r["scale"]) for r in records] == [(r.model, [*r.lr], r.scale) for r in rows]
    with (tmp_path / "benchmark.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["total_s"]) for line in lines] == [1.5] * 8
    assert lines[0]["lr"] == "4x6"
    names = {"benchmark_4x6", "benchmark_8x6", "roofline"}
    assert {p.name for p in plots.save_plots(rows, tmp_path)} == {
        f"{n}.{kind}" for n in names for kind in ("png", "pdf")
    }
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as plot:
            assert min(plot.size) > 800  # sharp in print
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    text = io.StringIO()
    Console(file=text, width=100).print(*tables.benchmark_tables(rows))
    assert text.getvalue().count("lm_liif") == 4
    assert "6x4" in text.getvalue()


def test_a_plot_is_whole_or_absent(models, tmp_path, monkeypatch):
    def full(figure, target, **options):
        target.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.Figure, "savefig", full)
    rows = runner.count(models, runner.plan(models, [(4, 6)], [2], ["fused"]))
    with pytest.raises(OSError, match="No space left"):
        plots.save_plots(rows, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_task(compose, tmp_path, fused, machine, capsys):
    options = ("task=benchmark", "task.models=[lm_liif,bicubic]", "task.sizes=[[8,12]]", "task.scales=[2,3]",
               "task.repeats=1", "task.training=true", "task.batches=2")  # fmt: skip
    pipeline.run(compose(*TINY, *options))
    records = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert [r["backend"] for r in records] == ["fused", "reference", "torch"] * 2
    assert records[2]["encoder_params"] == 0  # bicubic has no encoder
    training = json.loads((tmp_path / "run" / "training.json").read_text())
    assert training["batch_size"] == 4
    assert training["step_images_s"] > 0
    assert 0 < training["wait"] < 1
    assert "lm_liif" in capsys.readouterr().out


def test_macs_of_every_decoder_without_timing(compose, tmp_path):
    names = "metasr,liif,lte,lte_plus,ciaosr,srno,lm_liif,lm_lte,lm_ciaosr,lm_srno,bicubic"
    pipeline.run(compose("task=benchmark", f"task.models=[{names}]", "task.sizes=[[60,80]]", "task.scales=[4]",
                         "task.time=false"))  # fmt: skip
    records = {r["model"]: r for r in json.loads((tmp_path / "run" / "benchmark.json").read_text())}
    assert records.keys() == set(names.split(","))
    assert records["lm_liif"]["render_macs"] == 60 * 80 * 16 * 4 * (20 * 16 + 5 * 16 * 16 + 16 * 3)
    assert records["bicubic"]["macs"] == 0
    assert records["liif"]["decoder_params"] == 346_883


def test_an_unknown_model_is_named(compose, caplog):
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "task=benchmark", "task.models=[lm_lif]"))
    assert "task.models must be some of bicubic" in caplog.text
    assert "lm_lif: no such checkpoint" in caplog.text


def test_the_loader_by_itself():
    class Slow:
        def train_dataloader(self):
            for _ in range(20):
                time.sleep(0.01)
                yield {}

    assert 0.01 <= throughput.seconds_per_batch(Slow(), 4) < 0.1
