"""Scale-to-modulation tables, which give the largest modulation intensity for each coarser level.

A file holds tables for several target scales and, unless it comes from the released code, several thresholds. A
threshold is the mean squared difference from dense rendering that a table keeps, in network units [-1, 1]. It equals a
PSNR of ``10 log10(4 / threshold)`` dB for colours in [0, 1].
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lmf.errors import UserError, one_line

FORMAT = 1
UNIT = "mean squared difference from dense rendering, colours in [-1, 1]"
Bounds = Mapping[float, float]  # level -> the largest modulation intensity rendered at it
Interval = tuple[float, float, float]  # level, then the lowest and highest intensity rendered at it


class TableError(UserError):
    """Raised if tables are missing, damaged or unsuitable."""


@dataclass(frozen=True)
class Table:
    """A table for one target scale.

    Attributes:
        bounds: largest intensity to render at each level.
        threshold: mean squared difference from dense rendering that it keeps, in network units; None if unknown.
        share: rendered pixels divided by output pixels during calibration; None if unknown.
    """

    bounds: Bounds
    threshold: float | None = None
    share: float | None = None

    def intervals(self, scale: float) -> list[Interval]:
        """Return the levels up to ``scale``, from coarse to fine, with closed intervals of intensities.

        Levels below 1 or not below ``scale`` are left out. ``scale`` itself follows as the last level, unless the last
        bound is 1 or infinite, which both mean "all".
        """
        levels = sorted(level for level in self.bounds if 1 <= level < scale)
        highs = [self.bounds[level] for level in levels]
        if not levels or highs[-1] not in (1, math.inf):
            levels, highs = [*levels, scale], [*highs, math.inf]
        lows = [-math.inf, *highs[:-1]]
        return list(zip(levels, lows, [*highs[:-1], math.inf], strict=True))


@dataclass(frozen=True)
class Tables:
    """The content of a file of scale-to-modulation tables.

    Attributes:
        tables: tables by target scale, the most precise first.
        model: `fingerprint` of the model they were made for; None in files of the released code.
        estimator: name of the estimator that made them.
        images: number of images used for calibration; None if unknown.
        overlap: whether they were made for rendering with overlap, see `CMSR`.
    """

    tables: Mapping[float, Sequence[Table]]
    model: str | None = None
    estimator: str = "unknown"
    images: int | None = None
    overlap: bool = False

    @classmethod
    def of(cls, source: Tables | Mapping[Any, Any] | str | Path) -> Tables:
        """Read tables from a file or from its content as a mapping; return `Tables` unchanged.

        Raises:
            TableError: if the file is missing, damaged or of another format.
        """
        if isinstance(source, Tables):
            return source
        if isinstance(source, Mapping):
            return cls._parse(source, "tables")
        import yaml  # only CMSR needs it

        path = Path(source).expanduser()
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise TableError(f"{path}: no such tables; create them with lmf task=calibrate ckpt_path=...") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TableError(f"{path}: not readable as YAML: {one_line(error, limit=200)}") from error
        return cls._parse(content, str(path))

    @classmethod
    def _parse(cls, content: Any, name: str) -> Tables:
        try:
            if "format" not in content:  # of the released code: {8: {1: 0.33, 2: 0.38, ...}, ...}
                content = {"tables": {s: [{"bounds": b}] for s, b in content.items()}, "estimator": "released"}
            elif content["format"] != FORMAT:
                raise TableError(f"{name}: has format {content['format']!r}, this version reads format {FORMAT}")
            tables = {
                float(scale): sorted((_table(row) for row in rows), key=lambda table: table.threshold or 0)
                for scale, rows in content["tables"].items()
            }
            if not tables or not all(tables.values()):
                raise ValueError("there must be at least one scale, and at least one table per scale")
            return cls(
                tables, content.get("model"), content["estimator"], content.get("images"), content.get("overlap", False)
            )
        except TableError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise TableError(f"{name}: not scale-to-modulation tables ({type(error).__name__}: {error})") from error

    def dump(self) -> str:
        """Return the content of a file that `of` can read."""
        rows = {
            scale: [{"threshold": t.threshold, "share": t.share, "bounds": dict(t.bounds)} for t in self.tables[scale]]
            for scale in sorted(self.tables)
        }
        content = {
            "format": FORMAT,
            "model": self.model,
            "estimator": self.estimator,
            "images": self.images,
            "overlap": self.overlap,
            "threshold_unit": UNIT,
            "tables": rows,
        }
        import yaml

        text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=200)
        return text

    def check(self, model: nn.Module) -> None:
        """Check that the tables were made for ``model``; tables that do not name their model pass.

        Raises:
            TableError: if they were made for a model with other weights.
        """
        actual = fingerprint(model)
        if self.model is not None and self.model != actual:
            raise TableError(
                f"the tables are for a model {self.model[:12]}, this one is {actual[:12]}; "
                "create tables for it with lmf task=calibrate ckpt_path=..."
            )

    def at(self, scale: float) -> Sequence[Table]:
        """Return the tables of the smallest target scale not below ``scale``, or of the largest one."""
        return self.tables[min((s for s in self.tables if s >= scale), default=max(self.tables))]

    def keeping(self, threshold: float) -> Tables:
        """Keep only the cheapest table of each scale whose threshold is at most ``threshold``.

        Raises:
            TableError: if a scale has no such table.
        """
        chosen = {}
        for scale, tables in self.tables.items():
            known = [t.threshold for t in tables if t.threshold is not None]
            suitable = [t for t in tables if t.threshold is not None and t.threshold <= threshold * (1 + 1e-6)]
            if not suitable:
                available = (
                    f"the lowest available is {min(known):g} ({psnr(min(known)):.1f} dB)"
                    if known
                    else "there are only tables of unknown threshold"
                )
                raise TableError(
                    f"no table for x{scale:g} keeps a mean squared difference of {threshold:g} "
                    f"({psnr(threshold):.1f} dB); {available}"
                )
            chosen[scale] = suitable[-1:]
        return replace(self, tables=chosen)


def beside(checkpoint: Path) -> Path:
    """Return the default path of the tables of ``checkpoint``."""
    return checkpoint.with_suffix(".cmsr.yaml")


def psnr(threshold: float) -> float:
    """Convert a mean squared difference in network units [-1, 1] to PSNR in dB for colours in [0, 1]."""
    return 10 * math.log10(4 / threshold)


def mean_square(precision_db: float) -> float:
    """Convert PSNR in dB to a mean squared difference in network units; the inverse of `psnr`."""
    return 4 * 10 ** (-precision_db / 10)


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all weights as float32, which does not depend on their file or device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _table(row: Mapping[str, Any]) -> Table:
    bounds = {float(level): float(bound) for level, bound in row["bounds"].items()}
    values = [bounds[level] for level in sorted(bounds)]
    if values != sorted(values) or any(map(math.isnan, values)) or not all(map(math.isfinite, bounds)):
        raise ValueError(f"levels must be finite and bounds must grow with the level, got {bounds}")
    return Table(bounds, row.get("threshold"), row.get("share"))
