"""Compiles the CPU kernels for the processor of this machine and loads them."""

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

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi")
# Tried in order. Clang on ARM may not support -march=native. Without OpenMP the kernel runs on one thread.
TARGETS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


class BuildError(RuntimeError):
    """Raised if the CPU kernel cannot be compiled."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel, built on first use; None, after one warning, if that fails.

    Processes forked afterwards run PyTorch on one thread unless they set another number. The threads of OpenMP do not
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
        warnings.warn(f"rendering and convolutions fall back to plain torch, many times slower: {error}", stacklevel=2)
        return None
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))
    return native


def build(folder: Path | None = None) -> Path:
    """Return the path of the shared library for this processor, and compile it if ``folder`` does not hold it.

    The name ends in a digest of the content. A damaged file, which could crash the process, is thus detected and
    compiled again. Several processes may build at the same time. ``LMF_CXXFLAGS`` adds options at the end of the
    compiler's command line, such as ``-march=x86-64-v3`` for AVX2 or ``-fsanitize=address`` for debugging.

    Args:
        folder: folder of compiled kernels; `cache_folder` by default.

    Raises:
        BuildError: if there is no C++ compiler or it cannot compile the sources.
        OSError: if the library cannot be written.
    """
    compiler, more = find_compiler(), shlex.split(os.environ.get("LMF_CXXFLAGS", ""))
    here = Path(__file__).parent
    sources = sorted(here.glob("*.cpp"))
    identity = [subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout, processor()]
    identity += [path.read_text() for path in [*sources, *sorted(here.glob("*.h"))]]
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
            command = [*compiler, *FLAGS, *options, *more, *map(str, sources), "-o", str(temporary)]
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
    """Return 20 hexadecimal digits of the SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()[:20]


def intact(path: Path) -> bool:
    """Return whether ``path`` exists and its content matches the digest in its name."""
    try:
        return path.stem.endswith(digest(path.read_bytes()))
    except OSError:
        return False


def find_compiler() -> list[str]:
    """Return the command of the C++ compiler: ``CXX`` or the first of c++, g++ and clang++.

    Raises:
        BuildError: if there is none.
    """
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
    """Describe the processor. A library built for one may not run on another that shares the cache."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        keys = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(keys)}))
    return f"{platform.machine()} {platform.processor()}"
