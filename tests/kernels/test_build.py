"""Tests of compiling, caching and loading the CPU kernel."""

import _ctypes
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lmf import kernels
from lmf.kernels import build, native, reference
from tests.conftest import needs_compiler
from tests.kernels.test_kernels import make, scattered


def test_several_processes_build_at_once(tmp_path: Path):
    compiler = tmp_path / "slow"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || { sleep 0.2; for out; do :; done; echo built >"$out"; }\n')
    compiler.chmod(0o755)
    folder = tmp_path / "cache"
    code = f"from pathlib import Path; from lmf.kernels.build import build; print(build(Path({str(folder)!r})))"
    command, env = [sys.executable, "-c", code], os.environ | {"CXX": str(compiler)}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    paths = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert [str(p) for p in folder.iterdir()] == list(paths)  # one library, nothing half-written


def test_without_a_compiler_it_says_so_once(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.library.cache_clear()
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    coord = scattered(2, 5)
    try:
        with pytest.warns(UserWarning, match="plain torch.*no-such-compiler"):
            rgb = kernels.render(modulation, code, extra, coord, weights, "linear")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kernels.render(modulation, code, extra, coord, weights, "linear")
    finally:
        build.library.cache_clear()
    expected = reference.render(modulation, code, extra, coord, weights, "linear")
    np.testing.assert_allclose(rgb, expected, atol=1e-6)


def test_a_failed_build_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="false"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def stub_compiler(folder: Path) -> str:
    """Return a compiler that makes the same library from any source."""
    command = folder / "stub"
    command.write_text('#!/bin/sh\n[ "$1" = --version ] || { for out; do :; done; seq 99999 >"$out"; }\n')
    command.chmod(0o755)
    return str(command)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped"])
def test_a_damaged_library_is_built_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", stub_compiler(tmp_path))
    path = build.build(tmp_path / "cache")
    whole = path.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    kinds = {"truncated": whole[:half], "empty": b"", "garbage": b"no library" * 999, "flipped": flipped}
    path.write_bytes(kinds[damage])
    assert build.build(tmp_path / "cache") == path
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


@needs_compiler
def test_a_library_with_other_structs_is_refused(monkeypatch):
    monkeypatch.setattr(native, "_STRUCTS", (*native._STRUCTS[:3], native.Region))
    with pytest.raises(OSError, match="structs have"):
        native.load(build.build())


@needs_compiler
@pytest.mark.parametrize("wrong", ["no library", "another library"])
def test_a_library_that_does_not_load_is_built_again_once(wrong, monkeypatch, tmp_path):
    compiled, built = build.build().read_bytes(), []

    def rebuild() -> Path:  # under a name that depends on the content, as ever
        assert not any(path.exists() for path in built)
        built.append(tmp_path / f"kernel-{len(built)}.so")
        built[-1].write_bytes(compiled if len(built) == 2 else other)
        return built[-1]

    other = b"no library" if wrong == "no library" else Path(_ctypes.__file__).read_bytes()
    monkeypatch.setattr(build, "build", rebuild)
    build.library.cache_clear()
    try:
        assert build.library() is not None
    finally:
        build.library.cache_clear()
    assert len(built) == 2


def test_headers_and_options_are_part_of_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", stub_compiler(tmp_path))
    plain = build.build(tmp_path / "cache")
    monkeypatch.setenv("LMF_CXXFLAGS", "-march=x86-64-v3 '-DA=b c'")
    other = build.build(tmp_path / "cache")
    assert plain != other
    assert build.build(tmp_path / "cache") == other
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in Path(build.__file__).parent.glob("*.[hc]*"):
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "__file__", str(sources / "build.py"))
    assert build.build(tmp_path / "cache") == other
    (sources / "new.h").write_text("")
    assert build.build(tmp_path / "cache") not in (plain, other)
