"""Reads the file that W&B writes for an offline run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class WandbRecord:
    """Everything that one offline run file holds.

    Attributes:
        run: id, display_name, run_group, job_type, tags, notes, project: a protocol buffer.
        config: by key.
        history: logged rows.
        metrics: definitions of metrics, by name or pattern.
        artifacts: created artifacts.
        folder: of the run, with its media in ``files``.
    """

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.history if name in row]

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of the last table logged as ``name``. Cells with pictures are the paths of their files."""
        logged = self.column(name)[-1]
        assert logged["_type"] == "table-file"
        files = [
            {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
            for artifact in self.artifacts
            if artifact.type == "run_table"
        ]
        own = [paths for paths in files if f"{name}.table.json" in paths][-1]
        content = json.loads(own[f"{name}.table.json"].read_text())

        def cell(value: Any) -> Any:
            return own[value["path"]] if isinstance(value, dict) and value["_type"] == "image-file" else value

        return [dict(zip(content["columns"], map(cell, row), strict=True)) for row in content["data"]]


def records(path: Path) -> Iterator[Any]:
    """The records of a file of blocks of 32 KiB, in which a record may be in several pieces."""
    from wandb.proto import wandb_internal_pb2

    data, position, buffer = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        if not (size or kind):
            return
        buffer += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # the only or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(buffer)
            buffer = b""
            yield record


def offline_runs(folder: Path) -> list[WandbRecord]:
    """The offline runs in the run folder ``folder``, oldest first."""
    return [read(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def whole(path: Path, seconds: float = 60.0) -> list[Any]:
    """All records of an ended run. W&B's service may write the last ones shortly after ``finish`` has returned."""
    end = time.monotonic() + seconds
    while True:
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.1)


def read(path: Path) -> WandbRecord:
    found = WandbRecord(path.parent)
    for record in whole(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= values(record.run.config.update)
        elif kind == "config":
            found.config |= values(record.config.update)
        elif kind == "history":
            found.history.append(values(record.history.item))
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
    return found


def values(items: Any) -> dict[str, Any]:
    """The values of ``items``; those with nested keys become dictionaries."""
    found: dict[str, Any] = {}
    for item in items:
        node = found
        *parents, last = item.nested_key or [item.key]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
    return found
