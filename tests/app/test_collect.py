"""Tables and figures of sweeps, from notes and results as jobs leave them."""

import csv
import json
import math

import pytest
from PIL import Image

from lmf.app import collect
from lmf.app.notes import write_note


def job(folder, number, overrides, error=None, rows=(), file="results.json"):
    path = folder / str(number)
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    if error != "killed":
        write_note(path, overrides, error, "x")
    if rows:
        (path / file).write_text(json.dumps(rows))


def cmsr(scale, share, psnr):
    return {"set": "set5", "scale": scale, "images": 5, "protocol": "benchmark", "psnr": psnr, "dense_psnr": 26.0,
            "psnr_vs_dense": 50.0, "rendered_share": share, "render_s": share, "dense_render_s": 1.0}  # fmt: skip


def result(psnr, name="set5", scale=4.0):
    return {"set": name, "scale": scale, "images": 5, "protocol": "benchmark", "psnr": psnr, "ssim": 1 - psnr / 100}


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_table_of_what_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell is wrapped, however long the path
    for number, threshold in enumerate(("1e-5", "1e-4")):
        job(tmp_path, number, [f"renderer.mse_threshold={threshold}", "scale=8", "task=test"],
            rows=[cmsr(8.0, 0.3 - 0.1 * number, 25.9)])  # fmt: skip
    job(tmp_path, 2, ["renderer.mse_threshold=1", "scale=8", "task=test"], error="no table\nkeeps it")
    job(tmp_path, 10, ["renderer.mse_threshold=2", "scale=8", "task=test", "launcher=joblib"], error="killed")
    collect.show(tmp_path)
    rows = read(tmp_path / "sweep.csv")
    assert [(r["job"], r["renderer.mse_threshold"], r["rendered_share"]) for r in rows] == [
        ("0", "1e-5", "0.3"),
        ("1", "1e-4", str(0.3 - 0.1)),
        ("2", "1", ""),
        ("10", "2", ""),
    ]
    assert [r["error"] for r in rows] == ["", "", "no table\nkeeps it", "did not finish"]
    assert "task" not in rows[0]  # the same in all jobs
    assert "launcher" not in rows[0]  # does not influence the result of a job
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {
        "sweep.csv", "summary.csv", "pareto.png", "pareto.pdf",
        "sweep-renderer.mse_threshold.png", "sweep-renderer.mse_threshold.pdf",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "1e-4" in out
    assert "no table" in out
    assert "did not finish" in out


def test_means_over_seeds_best_first(tmp_path, capsys):
    psnr = {("1e-3", "0"): 30.0, ("1e-3", "1"): 31.0, ("5e-4", "0"): 32.0, ("5e-4", "1"): 32.5, ("5e-4", "2"): 31.5,
            ("1e-4", "0"): 29.0}  # fmt: skip
    for number, ((lr, seed), value) in enumerate(psnr.items()):
        job(
            tmp_path,
            number,
            [f"schedule.optimizer.lr={lr}", f"seed={seed}"],
            rows=[result(value), result(20.0, "b100")],
        )
    job(tmp_path, 6, ["schedule.optimizer.lr=1e-4", "seed=1"], error="the loss is not finite")
    collect.show(tmp_path)
    rows = [row for row in read(tmp_path / "summary.csv") if row["set"] == "set5"]
    assert [row["schedule.optimizer.lr"] for row in rows] == ["5e-4", "1e-3", "1e-4"]
    assert [row["jobs"] for row in rows] == ["3", "2", "1"]
    assert [float(row["psnr"]) for row in rows] == [32.0, 30.5, 29.0]
    assert float(rows[0]["psnr_std"]) == pytest.approx(0.5)  # of 31.5, 32 and 32.5
    assert float(rows[1]["psnr_std"]) == pytest.approx(math.sqrt(0.5))
    assert rows[2]["psnr_std"] == ""
    assert "seed" not in rows[0]
    out = capsys.readouterr().out
    assert "32.00 ± 0.50" in out
    assert out.index("5e-4") < out.index("1e-3") < out.index("1e-4")
    assert "the loss is not finite" in out
    with Image.open(tmp_path / "sweep-schedule.optimizer.lr.png") as figure:
        assert figure.width >= 1000  # the width of a column or a page in print
    assert (tmp_path / "sweep-schedule.optimizer.lr.pdf").read_bytes().startswith(b"%PDF")


def test_another_metric(tmp_path):
    for number, value in enumerate((30.0, 31.0)):
        job(tmp_path, number, [f"decoder.depth={number}"], rows=[result(value)])
    collect.collect(tmp_path, "ssim")  # falls as PSNR rises, see `result`
    assert [row["decoder.depth"] for row in read(tmp_path / "summary.csv")] == ["0", "1"]
    collect.collect(tmp_path, "psnr")
    assert [row["decoder.depth"] for row in read(tmp_path / "summary.csv")] == ["1", "0"]


def test_benchmarks_are_sorted_by_time(tmp_path, capsys):
    for number, seconds in enumerate((0.0521, 0.00123)):
        row = {"model": "lm_liif", "backend": "fused", "lr": [90, 160], "scale": 4, "precision": "32-true",
               "total_s": seconds, "floor_s": None, "device": "cpu"}  # fmt: skip
        job(tmp_path, number, [f"encoder.blocks={number}"], rows=[row], file="benchmark.json")
    collect.show(tmp_path)
    assert [float(row["total_s"]) for row in read(tmp_path / "summary.csv")] == [0.00123, 0.0521]
    out = capsys.readouterr().out
    assert "1.23 ms" in out
    assert "52.1 ms" in out


def test_the_value_of_a_job_is_the_mean_over_its_results(tmp_path):
    job(tmp_path, 0, [], rows=[result(30.0), result(26.0, "b100")])
    job(tmp_path, 1, [], error="failed")
    assert collect.objective(tmp_path / "0") == 28.0
    assert collect.objective(tmp_path / "0", "ssim") == pytest.approx(0.72)
    assert collect.objective(tmp_path / "0", "lpips") is None
    assert collect.objective(tmp_path / "1") is None


@pytest.mark.parametrize("swept", ["decoder", "scale", "renderer"])
def test_quantities_of_any_kind(tmp_path, swept):
    values = {"decoder": ("liif", "lm_liif"), "scale": ("2", "4"), "renderer": ("null", "1")}[swept]
    for number, value in enumerate(values):
        scale = float(value) if swept == "scale" else 4.0
        job(
            tmp_path,
            number,
            [f"{swept}={value}"],
            rows=[result(30.0 + number, scale=scale), result(28.0, "b100", scale)],
        )
    collect.show(tmp_path)
    assert (tmp_path / f"sweep-{swept}.png").is_file()


def test_an_identical_perfect_result_is_no_error(tmp_path):
    for seed in (0, 1):
        job(tmp_path, seed, [f"seed={seed}", "scale=1"], rows=[result(math.inf)])
    collect.show(tmp_path)
    (row,) = read(tmp_path / "summary.csv")
    assert row["psnr"] == "inf"


def test_an_empty_sweep_is_no_error(tmp_path):
    assert collect.collect(tmp_path) == []
    collect.show(tmp_path / "nothing")
