"""The W&B workspace and report of a project, as objects of wandb-workspaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmf.benchmark.cost import STAGES
from lmf.errors import needed

with needed("dashboard"):
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

STEP = "trainer/global_step"
HEALTH = ("train/loss", "train/lr", "train/grad_norm", "train/images_s", "train/loader_share", "memory/process_gib")


class ConfigColumn(wr.ParallelCoordinatesPlotColumn):  # type: ignore[misc]
    """A column of parallel coordinates for an option with dots in its name.

    wandb-workspaces would look for ``optimizer.lr`` inside ``schedule``; the runs of this package have flat names.
    """

    def _to_model(self) -> Any:
        model = super()._to_model()
        model.accessor = f"config:{self.metric.name}.value"
        return model


@dataclass(frozen=True)
class Content:
    """What the panels show.

    Attributes:
        sets: names of evaluation sets, such as ``set5``.
        scales: factors.
        parameters: options in the parallel coordinates, such as ``schedule.optimizer.lr``.
    """

    sets: Sequence[str]
    scales: Sequence[float]
    parameters: Sequence[str]

    def names(self, stage: str, value: str) -> list[str]:
        """Return the metrics of a stage, such as ``test/set5_x4/psnr``, for all sets and scales."""
        return [f"{stage}/{name}_x{scale:g}/{value}" for name in self.sets for scale in self.scales]

    def quality(self) -> list[Any]:
        """Panels of PSNR by set and scale against bicubic interpolation."""
        tests = [
            wr.BarPlot(
                title=f"{name} x{scale:g}: PSNR in dB, and bicubic",
                metrics=[summary(f"test/{name}_x{scale:g}/{value}") for value in ("psnr", "bicubic_psnr")],
            )
            for name in self.sets
            for scale in self.scales
        ]
        validation = wr.LinePlot(
            title="validation: PSNR in dB, mean over sets", x=STEP, y=["val/psnr", "val/bicubic_psnr"]
        )
        best = wr.BarPlot(title="best validation PSNR in dB", metrics=[summary("val/psnr.max")])
        return [validation, best, *tests, table("test/results"), table("test/images")]

    def cost(self) -> list[Any]:
        """Panels of multiply-adds and seconds by stage."""
        return [
            *(
                wr.BarPlot(
                    title=f"x{scale:g}: {title} by stage",
                    metrics=[summary(f"cost/x{scale:g}/{stage}_{unit}") for stage in STAGES],
                )
                for scale in self.scales
                for unit, title in (("macs", "multiply-adds"), ("s", "seconds"))
            ),
            wr.BarPlot(title="parameters", metrics=[summary(f"cost/params_{part}") for part in ("encoder", "decoder")]),
            table("cost/stages"),
        ]

    def cmsr(self) -> list[Any]:
        """Panels of quality over the work of multi-scale rendering (CMSR)."""
        return [
            wr.ScatterPlot(
                title=f"{name} x{scale:g}: {label}",
                x=summary(f"test/{name}_x{scale:g}/{work}"),
                y=summary(f"test/{name}_x{scale:g}/psnr"),
            )
            for name in self.sets
            for scale in self.scales
            for work, label in (("rendered_share", "PSNR over rendered share"), ("render_s", "PSNR over seconds"))
        ]

    def sweeps(self) -> list[Any]:
        """Parallel coordinates of options and the best validation PSNR."""
        columns = [ConfigColumn(metric=wr.Config(name), display_name=name) for name in self.parameters]
        psnr = wr.ParallelCoordinatesPlotColumn(metric=summary("val/psnr.max"), display_name="best PSNR in dB")
        return [wr.ParallelCoordinatesPlot(title="options and quality", columns=[*columns, psnr])]

    def pictures(self) -> list[Any]:
        """Pictures of validations, with a slider over the steps."""
        keys = [f"pictures/{name}_x{scale:g}" for name in self.sets for scale in self.scales]
        return [wr.MediaBrowser(title="LR | bicubic | ours | HR", media_keys=keys, num_columns=2)]

    def health(self) -> list[Any]:
        """Panels of training health."""
        return [wr.LinePlot(title=name, x=STEP, y=[name]) for name in (*HEALTH, "memory/gpu_gib")]

    def sections(self) -> dict[str, list[Any]]:
        """Return all panels by section."""
        return {
            "Quality": self.quality(),
            "Cost by stage": self.cost(),
            "CMSR": self.cmsr(),
            "Sweeps": self.sweeps(),
            "Pictures": self.pictures(),
            "Training health": self.health(),
        }


def summary(name: str) -> Any:
    """Return a metric of the runs' summaries."""
    return wr.SummaryMetric(name)


def table(name: str) -> Any:
    """Return a panel with a logged table."""
    return wr.WeavePanelSummaryTable(table_name=name)


def workspace_sections(content: Content) -> list[Any]:
    """Return the sections of the workspace."""
    return [ws.Section(name=name, panels=panels, is_open=True) for name, panels in content.sections().items()]


def report_blocks(content: Content, entity: str, project: str, cards: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the blocks of the report: the cards of the pretrained models, then the panels of the workspace.

    Args:
        content: what the panels show.
        entity, project: whose runs the panels show.
        cards: by name of the model, see `lmf.list_models`.
    """
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.H1(text="Pretrained models"),
        wr.MarkdownBlock(text=quality_of(cards)),
    ]
    for name, card in cards.items():
        facts = [f"- {key}: {card[key]}" for key in ("data", "licence", "version") if key in card]
        blocks += [wr.H2(text=name), wr.MarkdownBlock(text="\n".join(facts) or "no facts")]
    for title, panels in content.sections().items():
        runs = wr.Runset(entity=entity, project=project, name="runs")
        blocks += [wr.H1(text=title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return blocks


def quality_of(cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table in Markdown of the PSNR of all models, one row per set and scale."""
    results = {name: card.get("results", {}) for name, card in cards.items()}
    lines = list(dict.fromkeys(key for measured in results.values() for key in measured))
    rows = [[key, *(decibels(measured, key) for measured in results.values())] for key in lines]
    header = ["PSNR in dB", *results]
    return "\n".join(map(markdown_row, [header, ["---"] * len(header), *rows]))


def decibels(results: Mapping[str, Mapping[str, float]], key: str) -> str:
    """Format the PSNR of one set and scale; empty if it was not measured."""
    return f"{results[key]['psnr']:.2f}" if key in results else ""


def markdown_row(cells: Iterable[str]) -> str:
    """Join cells to a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
