import csv
import json

import pytest

from lmf.training.loggers import log_rows
from lmf.training.results import Result, Results


@pytest.fixture
def rows() -> list[Result]:
    return [
        Result("set5", 4.0, 5, "benchmark", {"psnr": 32.1, "ssim": 0.9, "decoder_s": 0.25}),
        Result("my_x_photos", 2.5, 1, "raw", {"psnr": 30.0, "ssim": 0.8}),
    ]


def test_files_have_one_flat_line_for_each_set(rows, tmp_path):
    Results(rows).save(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"set": "set5", "scale": 4.0, "images": 5, "protocol": "benchmark", "psnr": 32.1, "ssim": 0.9,
         "decoder_s": 0.25},
        {"set": "my_x_photos", "scale": 2.5, "images": 1, "protocol": "raw", "psnr": 30.0, "ssim": 0.8},
    ]  # fmt: skip
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["set", "scale", "images", "protocol", "psnr", "ssim", "decoder_s"]
    assert [line["decoder_s"] for line in lines] == ["0.25", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]


def test_saved_rows_come_back_as_they_were(rows, tmp_path):
    Results(rows).save(tmp_path)
    assert Results.load(tmp_path).rows == rows
    assert Results.load(tmp_path / "nowhere").rows == []


def test_a_self_ensemble_is_marked(rows, tmp_path):
    rows[0].self_ensemble = True
    Results(rows).save(tmp_path)
    first, second = json.loads((tmp_path / "results.json").read_text())
    assert first["self_ensemble"] is True
    assert "self_ensemble" not in second
    assert Results.load(tmp_path).rows == rows


def test_shares_of_faults_have_enough_digits(rows, capsys):
    rows[0].values |= {"colour_share": 0.000123, "bicubic_colour_share": 0.0}
    Results(rows).show("measured")
    out = capsys.readouterr().out
    assert "0.0123%" in out
    assert "0.0000%" in out


def test_a_name_need_not_be_parsed(rows):
    assert [row.name for row in rows] == ["set5_x4", "my_x_photos_x2.5"]


def test_the_table_shows_all_but_the_protocol(rows, capsys):
    Results(rows).show("measured")
    out = capsys.readouterr().out
    assert all(word in out for word in ("measured", "my_x_photos", "2.5", "32.10", "0.9000", "decoder", "250 ms"))
    assert "benchmark" not in out


def test_an_empty_table_says_so(capsys):
    Results([]).show("set5")
    assert capsys.readouterr().out == "set5: no results\n"


def test_wandb_gets_the_rows_as_a_table(rows, monkeypatch):
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    tables = []
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(
        WandbLogger, "log_table", lambda self, key, columns, data, step: tables.append((key, columns, data))
    )
    log_rows([CSVLogger("unused"), WandbLogger()], "test/results", [row.columns() for row in rows])
    ((key, columns, data),) = tables
    assert key == "test/results"
    assert columns == ["set", "scale", "images", "protocol", "psnr", "ssim", "decoder_s"]
    assert data[1] == ["my_x_photos", 2.5, 1, "raw", 30.0, 0.8, None]
