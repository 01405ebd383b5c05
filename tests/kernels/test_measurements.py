import json
import math

import pytest

from lmf.kernels import measurements
from lmf.kernels.measurements import kept, turns

FIGURES = {"call": 5e-4, "pixel": 0.1 + 0.2}


def refuse():
    raise AssertionError("measured again")


def test_figures_are_kept(tmp_path):
    folder, other = tmp_path / "new", {"call": 1.0, "pixel": 0.0}
    assert kept("x", "one", FIGURES, lambda: FIGURES, folder) == FIGURES
    assert kept("x", "one", FIGURES, refuse, folder) == FIGURES
    assert kept("x", "two", FIGURES, lambda: other, folder) == other
    assert kept("y", "one", FIGURES, lambda: other, folder) == other
    assert kept("x", "one", FIGURES, refuse, folder) == FIGURES
    assert len(list(folder.iterdir())) == 3


def with_call(value):
    return lambda content: json.dumps({**content, "figures": {**content["figures"], "call": value}})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: "",
        lambda content: "{",
        lambda content: "[1, 2]",
        lambda content: "\xff\x00",
        lambda content: json.dumps({**content, "key": "of another machine"}),
        lambda content: json.dumps({"key": content["key"]}),
        lambda content: json.dumps({**content, "figures": {"call": 1.0}}),
        *map(with_call, (-1e-5, math.nan, math.inf, None, "fast")),
    ],
)
def test_damaged_or_foreign_files_are_measured_again(tmp_path, spoil):
    kept("x", "one", FIGURES, lambda: FIGURES, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(spoil(json.loads(path.read_text())), encoding="latin-1")
    again = {"call": 3e-4, "pixel": 0.5}
    assert kept("x", "one", FIGURES, lambda: again, tmp_path) == again
    assert kept("x", "one", FIGURES, refuse, tmp_path) == again
    assert json.loads(path.read_text()) == {"key": "one", "figures": again}


def test_a_busy_machine_leaves_nothing_behind(tmp_path):
    assert kept("x", "one", FIGURES, lambda: None, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert kept("x", "one", FIGURES, lambda: FIGURES, tmp_path / "file") == FIGURES
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([9, 5, 4, 4.1, 7], [3, 1, 1, 1, 1], ([4, 1], True)),
        ([9, 5, 4, 7, 7, 3.9], [1, 1, 1, 1, 1, 1], ([3.9, 1], True)),
        ([9, 5, 4, 7, 8, 9, 60], [1, 1, 1, 1, 1, 1, 1], ([4, 1], False)),
    ],
)
def test_turns(monkeypatch, first, second, expected):
    """A clock that only the calls advance: they end when each has been nearly as fast twice, or time is up."""
    clock = [0.0]

    def advance(durations):
        left = iter(durations)
        return lambda: clock.__setitem__(0, clock[0] + next(left))

    monkeypatch.setattr(measurements.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measurements, "BUDGET", 90)
    seconds, steady = turns([advance(first), advance(second)])
    assert (seconds, steady) == (pytest.approx(expected[0]), expected[1])
