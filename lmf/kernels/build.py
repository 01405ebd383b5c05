"""Compiles the CPU kernel for this machine's processor, once, and loads it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from lmf.io.files import cache_folder

SOURCES = ("render.cpp", "layers.h", "enlarge.h", "pages.h", "skip.h", "tile.h", "place.h", "vector.h")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi")
# Tried in order: Clang on ARM may know no -march=native, and some compilers come without OpenMP (one thread then).
TARGETS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


class BuildError(RuntimeError):
    """The CPU kernel could not be compiled."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, built on first use. None, after one warning, where that is not possible."""
    try:
        return ctypes.CDLL(str(build()))
    except (BuildError, OSError) as error:
        warnings.warn(f"rendering falls back to plain torch, many times slower: {error}", stacklevel=2)
        return None


def build(folder: Path | None = None) -> Path:
    """The shared library for this processor, compiled unless ``folder`` holds it already.

    Any number of processes may build at once: each writes a file of its own and renames it.

    Args:
        folder: where compiled kernels are kept; by default `cache_folder`.

    Raises:
        BuildError: no C++ compiler, or one that cannot compile the sources.
        OSError: nowhere to write.
    """
    compiler = find_compiler()
    here = Path(__file__).parent
    identity = [subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout, processor()]
    identity += [(here / name).read_text() for name in SOURCES] + [repr((compiler, FLAGS, TARGETS))]
    folder = folder or cache_folder()
    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:20]
    target = folder / f"render-{key}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".so.part", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        for options in TARGETS:
            command = [*compiler, *FLAGS, *options, str(here / SOURCES[0]), "-o", str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                os.replace(temporary, target)
                return target
        raise BuildError(f"{shlex.join(command)}: {result.stderr.strip()[-400:] or result.returncode}")
    finally:
        temporary.unlink(missing_ok=True)


def find_compiler() -> list[str]:
    """The C++ compiler: ``CXX`` or the first of c++, g++, clang++."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        if shutil.which(command[0]) is None:
            raise BuildError(f"CXX={os.environ['CXX']!r} is not a command")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler (c++, g++, clang++, or CXX) was found")


def processor() -> str:
    """What tells processors apart: a library built for one may not run on another that shares the cache."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        keys = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(keys)}))
    return f"{platform.machine()} {platform.processor()}"
