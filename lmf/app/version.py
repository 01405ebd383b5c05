"""Which code is at work: the package's version, its commit where it lies in its own checkout, a hash of its sources."""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import torch

import lmf

PACKAGE = Path(lmf.__file__).resolve().parent


def facts(package: Path = PACKAGE) -> dict[str, Any]:
    """``version``; in a checkout of this project also ``commit``, and ``modified: True`` if it has changed since.

    A package that is installed somewhere inside another repository has no commit.
    """
    version = {"version": lmf.__version__}
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "lmf" != package or not _is_ours(Path(top) / "pyproject.toml"):
        return version
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return version
    changed = _git(Path(top), "status", "--porcelain", "--", "lmf", "conf")
    return version | {"commit": commit} | ({"modified": True} if changed else {})


@cache
def fingerprint() -> str:
    """A hash of the package's source files and PyTorch's version: what results depend on beside config and data."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(p for suffix in ("py", "cpp", "h") for p in PACKAGE.rglob(f"*.{suffix}")):
        digest.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _is_ours(pyproject: Path) -> bool:
    try:
        return tomllib.loads(pyproject.read_text())["project"]["name"] == "lmf"
    except (OSError, ValueError, KeyError):
        return False


def _git(folder: Path, *command: str) -> str | None:
    """The output of a git command; None without git, a repository or success."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
