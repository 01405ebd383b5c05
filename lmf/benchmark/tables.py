"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lmf.benchmark.cost import CONVENTION, STAGES, Cost, Latency, StageCosts
from lmf.benchmark.quality import Point
from lmf.benchmark.runner import Row, label


def cost_table(costs: Sequence[Cost], latencies: Sequence[Latency], name: str) -> Table:
    """Return a `rich` table of MACs, time and memory with one row per output size.

    Args:
        costs, latencies: results for one model and input size, at the same scales.
        name: name of the model.
    """
    first, device = costs[0], latencies[0].device
    title = (
        f"{name}, one {first.lr_size[1]}x{first.lr_size[0]} picture on {device}\n"
        f"{first.encoder_params:,} parameters in the encoder, {first.decoder_params:,} in the decoder"
    )
    columns = ["output", *(f"{s}\nGMAC" for s in STAGES), *(f"{s}\nms" for s in (*STAGES, "total")), "peak\nMB"]
    table = new_table(title, [], columns)
    for cost, timing in zip(costs, latencies, strict=True):
        times = map(milliseconds, (timing.encoder, timing.latent, timing.render, timing.total))
        table.add_row(f"{cost.size[1]}x{cost.size[0]}", *gmacs(cost)[:-1], *times, megabytes(timing.peak_bytes))
    return table


def benchmark_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one `rich` table per input size with one row per case."""
    tables = []
    for size in dict.fromkeys(r.lr for r in rows):
        group = [r for r in rows if r.lr == size]
        tables.append(macs_table(group) if group[0].total_s is None else times_table(group))
    return tables


def macs_table(rows: Sequence[Row]) -> Table:
    """Return a table of MACs and parameters for rows of one input size."""
    numbers = ["scale", *(f"{s}\nGMAC" for s in (*STAGES, "total")), "encoder\nparameters", "decoder\nparameters"]
    table = new_table(row_title(rows[0]), ["model"], numbers)
    for row in rows:
        table.add_row(row.name, f"{row.scale:g}", *gmacs(row), f"{row.encoder_params:,}", f"{row.decoder_params:,}")
    return table


def times_table(rows: Sequence[Row]) -> Table:
    """Return a table of times and rates for timed rows of one input size."""
    times = [f"{s}\nms" for s in (*STAGES, "total")]
    numbers = ["scale", *times, "total\nGMAC", "GFLOP\n/s", "of its\nfloor", "peak\nMB"]
    table = new_table(row_title(rows[0]), ["model", "backend"], numbers)
    table.padding = (0, 0, 0, 0)  # 80 columns are few
    for row in rows:
        assert row.total_s is not None
        assert row.floor_s is not None
        times = [milliseconds(t or 0) for t in (row.encoder_s, row.latent_s, row.render_s, row.total_s)]
        rates = [f"{row.gflops:.1f}", f"{row.total_s / row.floor_s:.1f}x", megabytes(row.peak_bytes)]
        table.add_row(row.name, label(row), f"{row.scale:g}", *times, gmacs(row)[-1], *rates)
    return table


def quality_table(points: Sequence[Point]) -> Table:
    """Return a table of PSNR and cost with one row per point."""
    numbers = ["scale", "PSNR\ndB", "GMAC", "total\nms"]
    table = new_table("PSNR on test sets, and cost of the benchmarked picture", ["model", "set"], numbers)
    for point in points:
        name = f"{point.model}, self-ensemble" if point.self_ensemble else point.model
        seconds = "-" if point.seconds is None else milliseconds(point.seconds)
        table.add_row(name, point.set, f"{point.scale:g}", f"{point.psnr:.2f}", f"{point.gmacs:.1f}", seconds)
    return table


def new_table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty table with left-aligned columns ``names``, then right-aligned columns ``numbers``."""
    table = Table(title=title, caption=CONVENTION, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    for name in names:
        table.add_column(name, justify="left", overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def row_title(row: Row) -> str:
    """Return the title of a table of rows with the input size of ``row``."""
    return f"one {row.lr[1]}x{row.lr[0]} picture on {row.device}"


def gmacs(costs: StageCosts) -> list[str]:
    """Format the MACs of each stage and their total in units of 10^9."""
    macs = (costs.encoder_macs, costs.latent_macs, costs.render_macs, costs.total_macs)
    return [f"{n / 1e9:.1f}" for n in macs]


def megabytes(count: int | None) -> str:
    """Format a number of bytes in units of 10^6, or "-" if it is unknown."""
    return "-" if count is None else f"{count / 1e6:.0f}"


def duration(seconds: float) -> str:
    """Format a time with three significant digits in a fitting unit, such as ``12.3 ms``."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next(((unit, size) for unit, size in units if seconds >= 0.9995 * size), units[-1])
    return f"{significant(seconds / size)} {unit}"


def milliseconds(seconds: float) -> str:
    """Format a time as in `duration` for a column in milliseconds, such as ``12.3``."""
    return significant(1e3 * seconds)


def significant(value: float) -> str:
    """Format a number from 0 on with three significant digits, but with all digits before the point."""
    if value == 0:
        return "0.00"
    decimals = next((n for n, least in enumerate((99.95, 9.995, 0.9995, 0.09995)) if value >= least), 4)
    return f"{value:.{decimals}f}"
