import math

import pytest
import torch
import yaml
from torch import nn

from lmf.renderers.cmsr.tables import Table, TableError, Tables, fingerprint, mean_square, psnr

INF = math.inf


@pytest.mark.parametrize(
    ("bounds", "scale", "intervals"),
    [
        ({1: 0.33, 2: 0.38, 8: 1}, 8, [(1, -INF, 0.33), (2, 0.33, 0.38), (8, 0.38, INF)]),
        ({1: 0.33, 2: 0.38, 8: 1}, 6.5, [(1, -INF, 0.33), (2, 0.33, 0.38), (6.5, 0.38, INF)]),
        ({1: 0.31, 6: 1, 18: 1}, 24, [(1, -INF, 0.31), (6, 0.31, 1), (18, 1, INF)]),
        ({1: 0.31, 6: 1, 18: 1}, 18, [(1, -INF, 0.31), (6, 0.31, INF)]),
        ({0.5: 0.1, 4: 0.2}, 5, [(4, -INF, 0.2), (5, 0.2, INF)]),
        ({1: 0.8, 2: 1.7}, 5, [(1, -INF, 0.8), (2, 0.8, 1.7), (5, 1.7, INF)]),
        ({1: 0.8, 2: INF}, 5, [(1, -INF, 0.8), (2, 0.8, INF)]),
        ({8: 1}, 5, [(5, -INF, INF)]),
        ({}, 5, [(5, -INF, INF)]),
    ],
)
def test_intervals(bounds, scale, intervals):
    assert Table(bounds).intervals(scale) == intervals


def test_the_smallest_scale_not_below_is_taken_else_the_largest():
    tables = Tables.of({4: {1: 0.1}, 8: {1: 0.2}, 18: {1: 0.3}})
    assert [tables.at(s)[0].bounds[1] for s in (2, 4, 4.1, 8, 12, 18, 30)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3]


def test_round_trip(tmp_path):
    tables = Tables(
        {6: [Table({1: 0.1, 1.5: 0.25}, 1e-6, 0.8), Table({}, 1e-5, None)], 5.5: [Table({2: 0.3, 4: INF}, 1e-6, 0.5)]},
        model="ab12",
        estimator="pooled",
        images=7,
    )
    (tmp_path / "t.yaml").write_text(tables.dump())
    again = Tables.of(tmp_path / "t.yaml")
    assert again == tables
    assert yaml.safe_load(tables.dump())["threshold_unit"].endswith("[-1, 1]")


def test_belong_to_one_model(tmp_path):
    torch.manual_seed(0)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    tables = Tables({6: [Table({1: 0.1})]}, model=fingerprint(one))
    tables.check(one)
    tables.check(one.double())
    with pytest.raises(TableError, match=r"the tables are for a model .* task=calibrate"):
        tables.check(other)
    Tables.of({6: {1: 0.1}}).check(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{8: {1: 0.4, 2: 0.3}}", "grow with the level"),
        ("{8: {1: .nan}}", "finite"),
        ("{8: hello}", "not scale-to-modulation tables"),
        ("hello", "not scale-to-modulation tables"),
        ("", "not scale-to-modulation tables"),
        ("{}", "not scale-to-modulation tables"),
        ("{8: [", "not readable as YAML"),
        ("!!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("{format: 9, tables: {}}", "format 9, this version reads format 1"),
        ("{format: 1, tables: {8: []}}", "not scale-to-modulation tables"),
        ("{format: 1, model: null, estimator: x, images: 1, tables: {8: []}}", "not scale-to-modulation tables"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as error:
        Tables.of(path)
    assert "t.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_units():
    assert psnr(4e-5) == pytest.approx(50)
    assert mean_square(50) == pytest.approx(4e-5)
    # 2e-5 in [-1, 1] is 5e-6 in [0, 1], about 53 dB
    assert psnr(2e-5) == pytest.approx(-10 * math.log10(5e-6))


def test_files_of_the_released_code():
    tables = Tables.of({8: {1: 0.33, 2: 0.38}})
    assert (tables.estimator, tables.model, tables.tables[8][0].bounds) == ("released", None, {1: 0.33, 2: 0.38})
