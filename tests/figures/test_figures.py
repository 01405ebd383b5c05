"""Figures in print: sizes, texts and files."""

from itertools import combinations
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from lmf.figures import comparison, style, sweeps


def shown(figure):
    """Every text that is drawn, with its box in pixels and its size in points."""
    renderer, drawn, draw = FigureCanvasAgg(figure).get_renderer(), {}, Text.draw

    def record(text, *args, **options):
        if text.get_visible() and text.get_text().strip():
            drawn[id(text)] = text
        draw(text, *args, **options)

    with mock.patch.object(Text, "draw", record):
        figure.draw(renderer)
    return [(text.get_text(), text.get_window_extent(renderer), text.get_fontsize()) for text in drawn.values()]


def check(figure, smallest=5.0):
    """No two texts overlap, none leaves the figure, and none is too small to read in print."""
    texts = shown(figure)
    assert texts
    width, height = figure.get_size_inches() * figure.dpi
    for text, box, size in texts:
        assert size >= smallest, text
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, a, _), (two, b, _) in combinations(texts, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 2, f"{one!r} covers {two!r}"


def panels(count, label="model {}", side=32):
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    ranks = [1, 2, *[0] * count]
    own = [
        comparison.Panel(label.format(i), crop, rng.random((side, side)), [("28.31", ranks[i]), ("0.9219", ranks[i])])
        for i in range(count)
    ]
    return [comparison.Panel("HR", crop), *own]


@pytest.mark.parametrize(
    ("count", "size"), [(1, (64, 64)), (4, (256, 256)), (4, (100, 300)), (6, (300, 100)), (9, (64, 64))]
)
def test_the_figure_of_a_comparison(tmp_path, count, size):
    whole = np.zeros((*size, 3), np.uint8)
    figure = comparison.draw(whole, (8, 8, 40, 40), "butterfly (set5), x4", panels(count), "PSNR in dB / SSIM")
    assert figure.get_size_inches()[0] == pytest.approx(style.PAGE)
    check(figure)
    texts = [text for text, _, _ in shown(figure)]
    assert texts.count("28.31") == count
    png, pdf = style.save(figure, tmp_path / "a.b" / "set5_x2.5_a")
    with Image.open(png) as image:
        assert image.width == pytest.approx(style.PAGE * style.DPI, abs=1)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert [png.name, pdf.name] == ["set5_x2.5_a.png", "set5_x2.5_a.pdf"]


def test_best_is_bold_and_second_best_underlined():
    figure = comparison.draw(np.zeros((64, 64, 3), np.uint8), (0, 0, 32, 32), "a", panels(3))
    weights = [text.get_weight() for text in figure.texts if text.get_text() == "28.31"]
    assert weights == ["bold", "normal", "normal"]
    assert (
        len([artist for artist in figure.artists if isinstance(artist, Line2D)]) == 2
    )  # below both numbers of the second model


def test_long_labels_fit():
    figure = comparison.draw(np.zeros((64, 64, 3), np.uint8), (0, 0, 32, 32), "a", panels(4, "edsr-baseline number {}"))
    check(figure, smallest=4)


def test_equal_figures_have_equal_files(tmp_path):
    for name in "ab":
        style.save(comparison.draw(np.zeros((64, 64, 3), np.uint8), (0, 0, 32, 32), "a", panels(1)), tmp_path / name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_figure_is_whole_or_absent(tmp_path, monkeypatch):
    def full(figure, target, **options):
        target.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        style.save(Figure(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def grid(panels=("set5 x2", "set5 x4"), lines=("depth 4", "depth 6"), values=("1e-3", "5e-4", "1e-4")):
    rng = np.random.default_rng(0)
    return [
        sweeps.Point(panel, line, value, rng.normal(30))
        for panel in panels for line in lines for value in values for _ in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "points",
    [
        grid(),
        grid(panels=[f"set{i} x4" for i in range(5)]),
        grid(
            lines=[""], values=["metasr", "liif", "diif", "lte", "lte_plus", "ciaosr", "lm_liif", "lm_lte", "lm_ciaosr"]
        ),
        [sweeps.Point("set5 x4", f"depth {i}", f"{10 ** -(2 + i / 9)}", 30 + i / 10) for i in range(20)],
        [sweeps.Point("set5 x4", f"depth {i}", "1", 30 + i / 10) for i in range(20)],
    ],
    ids=["grid", "panels", "names", "search", "one value"],
)
def test_a_metric_over_a_quantity(points):
    check(sweeps.quantity("schedule.optimizer.lr", "psnr", points))


def test_means_and_deviations():
    points = [sweeps.Point("set5 x4", "", x, y) for x, y in (("1", 30.0), ("1", 32.0), ("2", 35.0))]
    (axes,) = sweeps.quantity("decoder.depth", "psnr", points).axes
    ((line, _, (bars,)),) = axes.containers
    assert line.get_xydata().tolist() == [[1.0, 31.0], [2.0, 35.0]]
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(2**0.5)  # the sample standard deviation of 30 and 32


def test_precision_over_cost():
    rows = [{"rendered_share": x, "render_s": x, "dense_render_s": 1.0, "psnr": 25 + x, "dense_psnr": 26.0,
             "psnr_vs_dense": 50 + 9 * x} for x in (0.2, 0.4)]  # fmt: skip
    figure = sweeps.pareto({f"set5 x{scale}": rows for scale in (6, 8, 12, 18)})
    check(figure)
    assert figure.axes[0].lines[0].get_xydata().tolist() == pytest.approx(np.array([[0.2, -0.8], [0.4, -0.6]]))
