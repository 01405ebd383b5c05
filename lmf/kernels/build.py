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

import torch

from lmf.io.files import cache_folder, write_bytes
from lmf.kernels.native import load

MAIN = "render.cpp"
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi")
# Tried in order: Clang on ARM may know no -march=native, and some compilers come without OpenMP (one thread then).
TARGETS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


class BuildError(RuntimeError):
    """The CPU kernel could not be compiled."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, built on first use. None, after one warning, where that is not possible.

    A process forked from here on runs torch on one thread, unless it asks for more: the threads of OpenMP do not
    survive a fork, and waiting for them would never end.
    """
    try:
        path = build()
        try:
            native = load(path)
        except OSError:
            path.unlink(missing_ok=True)
            native = load(build())
    except (BuildError, OSError) as error:
        warnings.warn(f"rendering falls back to plain torch, many times slower: {error}", stacklevel=2)
        return None
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))
    return native


def build(folder: Path | None = None) -> Path:
    """The shared library for this processor, compiled unless ``folder`` holds it already.

    Its name ends in a digest of its content, so that a damaged file is noticed, removed and compiled again; loading
    one could end the process. Any number of processes may build at once. ``LMF_CXXFLAGS`` holds more options for the
    compiler, which come last: ``-march=x86-64-v3`` builds for AVX2, ``-fsanitize=address`` for debugging.

    Args:
        folder: where compiled kernels are kept; by default `cache_folder`.

    Raises:
        BuildError: no C++ compiler, or one that cannot compile the sources.
        OSError: nowhere to write.
    """
    compiler, more = find_compiler(), shlex.split(os.environ.get("LMF_CXXFLAGS", ""))
    here = Path(__file__).parent
    identity = [subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout, processor()]
    identity += [path.read_text() for path in sorted([here / MAIN, *here.glob("*.h")])]
    identity += [repr((compiler, FLAGS, TARGETS, more))]
    folder = folder or cache_folder()
    key = digest("\n".join(identity).encode())
    for found in folder.glob(f"render-{key}-*.so"):
        if intact(found):
            return found
        found.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name) / "render.so"
        for options in TARGETS:
            command = [*compiler, *FLAGS, *options, *more, str(here / MAIN), "-o", str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                break
        else:
            raise BuildError(f"{shlex.join(command)}: {result.stderr.strip()[-400:] or result.returncode}")
        data = temporary.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"render-{key}-{digest(data)}.so"
    write_bytes(target, data)
    return target


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def intact(path: Path) -> bool:
    """Whether ``path`` holds what its name says; another process may have removed it meanwhile."""
    try:
        return path.stem.endswith(digest(path.read_bytes()))
    except OSError:
        return False


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
