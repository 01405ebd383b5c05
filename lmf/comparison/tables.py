"""Tables of a comparison as Markdown, LaTeX, CSV and on screen, with the best and second best values marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as ScreenTable

from lmf.benchmark.tables import duration
from lmf.comparison.measure import Comparison, Score
from lmf.io.csv import csv_text

HIGHER = ("psnr", "ssim")  # of other metrics lower values are better
DIGITS = {"psnr": 2}  # of other metrics 4
COSTS = ("gmacs", "seconds", "peak_bytes", "rendered_share")
HEADINGS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS"}
Mark = Callable[[str, int | None], str]


@dataclass(frozen=True)
class Mean:
    """Means of one model over the pictures of one set and scale.

    Attributes:
        model, set, scale: what was measured.
        pictures: number of pictures.
        values: means as in `Score`; ``peak_bytes`` is the maximum.
        ranks: 1 for the best and 2 for the second best model, by metric. Values that print alike share a rank.
    """

    model: str
    set: str
    scale: float
    pictures: int
    values: dict[str, float]
    ranks: dict[str, int]


@dataclass(frozen=True)
class Row:
    """A line of the table: a model at one scale.

    Attributes:
        scale, model: which.
        parameters: number of parameters.
        costs: means over the pictures of all sets of ``gmacs``, ``seconds`` and ``rendered_share``, and the maximum of
            ``peak_bytes``.
        sets: means by set.
    """

    scale: float
    model: str
    parameters: int
    costs: dict[str, float]
    sets: dict[str, Mean]


@dataclass(frozen=True)
class Table:
    """A table with one row per scale and model, and metrics by set as columns.

    Attributes:
        rows: the rows.
        metrics: names of the metrics.
        note: conditions of the measurement in one sentence.
    """

    rows: Sequence[Row]
    metrics: Sequence[str]
    note: str

    @property
    def sets(self) -> list[str]:
        """Names of the sets."""
        return list(dict.fromkeys(name for row in self.rows for name in row.sets))

    def csv(self) -> str:
        """Return `records` as CSV."""
        return csv_text(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return a flat dictionary per scale, model and set; ``psnr_rank`` and so on are 1 for best, 2 for second."""
        lines = []
        for row in self.rows:
            for mean in row.sets.values():
                measured: dict[str, Any] = {}
                for name in self.metrics:
                    measured |= {name: mean.values[name], f"{name}_rank": mean.ranks.get(name, "")}
                costs = {name: mean.values[name] for name in COSTS if name in mean.values}
                place = {"set": mean.set, "scale": row.scale, "model": row.model, "pictures": mean.pictures}
                lines.append({**place, **measured, "parameters": row.parameters, **costs})
        return lines

    def markdown(self) -> str:
        """Return a Markdown table; the best value is bold, the second best underlined."""

        def mark(text: str, rank: int | None) -> str:
            return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank or 0, text)

        columns = self.headings()
        lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join(["---"] * len(columns)) + " |"]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in self.cells(row, mark)) + " |" for row in self.rows
        ]
        return "\n".join(lines) + f"\n\n{self.note} Bold is best, underlined second best.\n"

    def latex(self) -> str:
        """Return a LaTeX table for the package booktabs; the best value is bold, the second best underlined."""

        def mark(text: str, rank: int | None) -> str:
            return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(rank or 0, text)

        first = len(self.headings()) - len(self.sets) * len(self.metrics)
        width = len(self.metrics)
        groups = [rf"\multicolumn{{{width}}}{{c}}{{{escaped(name)}}}" for name in self.sets]
        rules = [rf"\cmidrule(lr){{{first + 1 + i * width}-{first + (i + 1) * width}}}" for i in range(len(self.sets))]
        names = [escaped(text) for text in self.headings()[:first]]
        names += [HEADINGS.get(name, escaped(name)) for _ in self.sets for name in self.metrics]
        lines = [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{rl{'r' * (len(names) - 2)}}}",
            r"\toprule",
            " & ".join([*[""] * first, *groups]).strip() + r" \\",
            " ".join(rules),
            " & ".join(names) + r" \\",
        ]
        for before, row in zip([None, *self.rows], self.rows, strict=False):
            if before is None or before.scale != row.scale:
                lines.append(r"\midrule")
            cells = self.cells(row, lambda text, rank: text)
            start = [rf"$\times${row.scale:g}", *map(escaped, cells[1:first])]
            lines.append(" & ".join([*start, *self.cells(row, mark)[first:]]) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {self.note}", ""])

    def screen(self) -> list[ScreenTable]:
        """Return one table per set for the terminal; the best value is bold, the second best underlined."""

        def mark(text: str, rank: int | None) -> str:
            return {1: f"[bold]{text}[/bold]", 2: f"[underline]{text}[/underline]"}.get(rank or 0, text)

        tables = []
        for name in self.sets:
            table = ScreenTable(title=name, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            columns = ["scale", "model", *self.cost_headings(), *(HEADINGS.get(m, m) for m in self.metrics)]
            for column in columns:
                table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
            for row in self.rows:
                if name in row.sets:
                    own = Row(row.scale, row.model, row.parameters, row.sets[name].values, {name: row.sets[name]})
                    table.add_row(*Table([own], self.metrics, "").cells(own, mark, self.has_share))
            tables.append(table)
        return tables

    @property
    def has_share(self) -> bool:
        """Whether a model renders at several scales."""
        return any("rendered_share" in row.costs for row in self.rows)

    def cost_headings(self) -> list[str]:
        """Return the headings of the columns of cost."""
        return ["parameters", "GMAC", "time", "MB", *(["rendered"] if self.has_share else [])]

    def headings(self) -> list[str]:
        """Return the headings of all columns."""
        quality = [f"{name} {HEADINGS.get(metric, metric)}" for name in self.sets for metric in self.metrics]
        return ["scale", "model", *self.cost_headings(), *quality]

    def cells(self, row: Row, mark: Mark, share: bool | None = None) -> list[str]:
        """Return the texts of ``row``; ``mark`` formats a value by its rank."""
        texts = [f"x{row.scale:g}", row.model, f"{row.parameters:,}", f"{row.costs['gmacs']:.1f}"]
        texts.append(duration(row.costs["seconds"]))
        texts.append(f"{row.costs['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row.costs else "")
        if self.has_share if share is None else share:
            texts.append(f"{row.costs['rendered_share']:.0%}" if "rendered_share" in row.costs else "")
        for name in self.sets:
            mean = row.sets.get(name)
            texts += [mark(shown(m, mean.values[m]), mean.ranks.get(m)) if mean else "" for m in self.metrics]
        return texts


def tabulate(comparison: Comparison) -> Table:
    """Average the scores of a comparison over the pictures of each set and scale, and rank the models."""
    scores = comparison.scores
    known = (*COSTS, *HIGHER)
    metrics = [*HIGHER, *(name for name in scores[0].values if name not in known)]
    models = list(comparison.parameters)
    means: dict[tuple[str, float], list[Mean]] = {}
    for set_name, scale in dict.fromkeys((score.set, score.scale) for score in scores):
        group = [score for score in scores if (score.set, score.scale) == (set_name, scale)]
        values = {model: averaged([score for score in group if score.model == model]) for model in models}
        ranks = ranked(values, metrics)
        count = len(group) // len(models)
        means[set_name, scale] = [Mean(m, set_name, scale, count, values[m], ranks[m]) for m in models]
    rows = []
    for scale in dict.fromkeys(scale for _, scale in means):
        for model in models:
            own = {m.set: m for found in means.values() for m in found if (m.model, m.scale) == (model, scale)}
            costs = averaged([score for score in scores if (score.model, score.scale) == (model, scale)])
            rows.append(Row(scale, model, comparison.parameters[model], costs, own))
    threads = comparison.threads
    pictures = len({(score.set, score.picture) for score in scores})
    note = (
        f"Means over {pictures} picture{'s' * (pictures > 1)}; GMAC are 10^9 multiply-adds; time with {threads} "
        f"thread{'s' * (threads > 1)} on {comparison.device}; MB is the peak memory of the first picture."
    )
    return Table(rows, metrics, note)


def averaged(scores: Sequence[Score]) -> dict[str, float]:
    """Return the means of the values of ``scores`` and the maximum of ``peak_bytes``."""
    result = {}
    for name in dict.fromkeys(name for score in scores for name in score.values):
        values = [score.values[name] for score in scores if name in score.values]
        result[name] = max(values) if name == "peak_bytes" else sum(values) / len(values)
    return result


def ranked(values: dict[str, dict[str, float]], metrics: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the ranks 1 and 2 of models by metric.

    Args:
        values: metrics by model.
        metrics: their names.
    """
    ranks: dict[str, dict[str, int]] = {model: {} for model in values}
    if len(values) < 2:
        return ranks
    for metric in metrics:
        sign = -1 if metric in HIGHER else 1
        printed = {model: sign * float(shown(metric, own[metric])) for model, own in values.items()}
        for rank, value in enumerate(sorted(set(printed.values()))[:2], start=1):
            for model in values:
                if printed[model] == value:
                    ranks[model][metric] = rank
    return ranks


def shown(metric: str, value: float) -> str:
    """Format a value of a metric."""
    return f"{value:.{DIGITS.get(metric, 4)}f}"


def escaped(text: str) -> str:
    """Return ``text`` with the special characters of LaTeX escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
