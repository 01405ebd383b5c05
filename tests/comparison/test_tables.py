"""Tables with the best and second best values marked."""

import csv
import io

import pytest
from rich.console import Console

from lmf.benchmark.tables import duration, milliseconds
from lmf.comparison import Comparison, Score, tabulate

PSNR = {"bicubic": (28.0, 26.0), "a_b": (32.004, 27.0), "c&d": (32.001, 28.0), "e": (31.0, 27.5)}


def scores(scale):
    for model, (first, second) in PSNR.items():
        for name, psnr in (("set5", first), ("b100", second)):
            values = {"psnr": psnr, "ssim": psnr / 40, "lpips": 1 - psnr / 40, "seconds": 0.0123, "gmacs": 2.5}
            yield Score(model, name, scale, "one", {**values, "peak_bytes": 3e6})
            yield Score(model, name, scale, "two", {**values, "psnr": psnr + 2})


@pytest.fixture
def table():
    found = [score for scale in (2.0, 4.0) for score in scores(scale)]
    return tabulate(Comparison(found, [], dict.fromkeys(PSNR, 1234567), "cpu", threads=2))


def test_means_and_ranks(table):
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    set5 = {row["model"]: row for row in rows if (row["set"], row["scale"]) == ("set5", "2.0")}
    assert float(set5["e"]["psnr"]) == 32.0  # the mean of 31 and 33
    assert {model: row["psnr_rank"] for model, row in set5.items()} == {
        "bicubic": "", "a_b": "1", "c&d": "1", "e": "2",  # 33.00 twice: values that print alike share a rank
    }  # fmt: skip
    b100 = {row["model"]: row for row in rows if (row["set"], row["scale"]) == ("b100", "2.0")}
    assert {model: row["psnr_rank"] for model, row in b100.items()} == {"bicubic": "", "a_b": "", "c&d": "1", "e": "2"}
    assert {model: row["lpips_rank"] for model, row in b100.items()} == {"bicubic": "", "a_b": "", "c&d": "1", "e": "2"}
    assert {row["pictures"] for row in rows} == {"2"}


def test_markdown(table):
    lines = table.markdown().splitlines()
    assert lines[0] == (
        "| scale | model | parameters | GMAC | time | MB | set5 PSNR | set5 SSIM | set5 LPIPS | b100 PSNR | b100 SSIM "
        "| b100 LPIPS |"
    )
    assert lines[4] == (
        "| x2 | c&d | 1,234,567 | 2.5 | 12.3 ms | 3 | **33.00** | <u>0.8000</u> | <u>0.2000</u> | **29.00** | "
        "**0.7000** | **0.3000** |"
    )
    assert "**" not in lines[2]
    assert len({line.count("|") for line in lines[:10]}) == 1


def test_latex(table):
    lines = table.latex().splitlines()
    body = [line for line in lines if line.startswith(r"$\times$")]
    assert len(body) == 8
    assert r"c\&d" in body[2]
    assert r"a\_b" in body[1]
    assert r"\textbf{33.00}" in body[2]
    assert r"\underline{28.50}" in body[3]
    columns = lines[1].partition("}{")[2].rstrip("}")
    assert {line.count(" & ") + 1 for line in body} == {len(columns)}
    assert lines.count(r"\midrule") == 2
    assert r"\cmidrule(lr){7-9} \cmidrule(lr){10-12}" in lines


def test_the_screen_is_80_columns_wide(table):
    text = io.StringIO()
    Console(file=text, width=80).print(*table.screen())
    lines = text.getvalue().splitlines()
    assert sum("c&d" in line for line in lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert "12.3 ms" in text.getvalue()


def test_a_single_model_has_no_ranks():
    score = Score("a", "set5", 2.0, "one", {"psnr": 30.0, "ssim": 0.9, "seconds": 1.0, "gmacs": 1.0})
    result = tabulate(Comparison([score], [], {"a": 1}, "cpu", threads=1))
    assert "**" not in result.markdown().partition("\n\n")[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (123.4, "123 s"), (12.34, "12.3 s"), (1.234, "1.23 s"), (0.99996, "1.00 s"), (0.5, "500 ms"),
        (0.01234, "12.3 ms"), (9.996e-3, "10.0 ms"), (1.234e-3, "1.23 ms"), (5.67e-6, "5.67 µs"), (0.0, "0.00 µs"),
    ],
)  # fmt: skip
def test_times_have_three_digits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.3456, "12346"), (0.1, "100"), (0.01234, "12.3"), (9.996e-3, "10.0"), (1.234e-3, "1.23"), (5.67e-4, "0.567"),
     (5.67e-5, "0.0567"), (0.0, "0.00")],
)  # fmt: skip
def test_times_in_a_column_of_milliseconds_have_three_digits_too(seconds, text):
    assert milliseconds(seconds) == text
