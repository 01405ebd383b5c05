"""Notes of the outcome of each job of a multirun, in the folder of the job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lmf.io.files import write_text

NOTE = "job.json"


def write_note(folder: Path, overrides: Sequence[str], error: str | None, identity: str) -> None:
    """Write the outcome of a job to its folder.

    Args:
        folder: of the job.
        overrides: of the job.
        error: one-line message; None if the job succeeded.
        identity: see `lmf.app.identity.identity`.
    """
    note = {"overrides": list(overrides), "error": error, "identity": identity}
    write_text(folder / NOTE, json.dumps(note, indent=1) + "\n")


def read_note(job: Path) -> dict[str, Any]:
    """Read the outcome of a job from its folder. A killed job has no note, only the overrides that Hydra saved.

    Returns:
        ``{"overrides": [...], "error": str or None}``, and ``"identity"`` if the job ended.
    """
    if (job / NOTE).is_file():
        note: dict[str, Any] = json.loads((job / NOTE).read_text())
        return note
    started = job / ".hydra" / "overrides.yaml"
    overrides = OmegaConf.to_container(OmegaConf.load(started)) if started.is_file() else []
    return {"overrides": overrides, "error": "did not finish"}
