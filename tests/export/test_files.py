"""What cannot be exported is said before any work, and leaves no file."""

import subprocess
import sys

import pytest

import lmf
from lmf import export
from lmf.app import pipeline
from lmf.errors import MissingExtra
from lmf.export import files
from lmf.renderers import CMSR, Tables

from ..conftest import TINY
from .conftest import make


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ciaosr-edsr", "tiles"),
        ("lm_ciaosr-edsr", "tiles"),
        ("diif-edsr", "each distinct slice"),
        ("thera_pro-edsr", "whole windows"),
        ("srno-edsr", "depends on all pixels"),
    ],
)
def test_decoders_that_no_graph_can_express(name, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "trace", None)  # must not be reached
    with pytest.raises(lmf.UserError, match=f"cannot be exported as a graph: .*{reason}") as caught:
        export.save(make(name), tmp_path / "model.pt2", fmt="torch_export")
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_multi_scale_rendering_is_not_a_graph():
    model = make("lm_liif-edsr")
    model.renderer = CMSR(Tables({}))
    with pytest.raises(lmf.UserError, match="CMSR cannot be exported as a graph"):
        export.check(model)


@pytest.mark.parametrize(
    ("name", "fmt", "message"),
    [
        ("model.onnx", "coreml", "format must be one of onnx, torch_export, got 'coreml'"),
        ("model.pt", "torch_export", "must end in .pt2 for format=torch_export"),
        ("model.safetensors", "onnx", "must end in .onnx for format=onnx"),
    ],
)
def test_format_and_suffix_must_fit(tmp_path, name, fmt, message):
    with pytest.raises(lmf.UserError, match=message):
        export.save(make("lm_liif-edsr"), tmp_path / name, fmt=fmt)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lmf\[onnx\]'"):
        export.save(make("lm_liif-edsr"), tmp_path / "model.onnx")


def test_two_files_appear_together_or_not_at_all(tmp_path, monkeypatch):
    graphs = dict.fromkeys(("latent", "render"))
    monkeypatch.setattr(files, "trace", lambda *args: graphs)
    monkeypatch.setattr(files, "to_torch", lambda graph, facts: b"new")
    paths = export.parts(tmp_path / "model.pt2", split=True)
    assert [path.name for path in paths.values()] == ["model.latent.pt2", "model.render.pt2"]
    assert export.save(make("lm_liif-edsr"), tmp_path / "model.pt2", fmt="torch_export", split=True) == [
        *paths.values()
    ]
    paths["render"].unlink()
    paths["render"].mkdir()  # cannot be replaced by a file
    paths["latent"].write_bytes(b"old")
    with pytest.raises(OSError, match=r"model\.render\.pt2"):
        export.save(make("lm_liif-edsr"), tmp_path / "model.pt2", fmt="torch_export", split=True)
    assert paths["latent"].read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.latent.pt2", "model.render.pt2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("format=coreml",), "format must be one of safetensors, onnx, torch_export, got 'coreml'"),
        (("format=onnx", "output=model.pt2"), "must end in .onnx"),
        (("split=true",), "split=true needs format=onnx"),
    ],
)
def test_the_task_says_what_is_wrong(compose, tmp_path, caplog, overrides, message):
    output = tmp_path / "model.safetensors"
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "task=export", "ckpt_path=lm_liif_edsr", f"output={output}", *overrides))
    assert message in caplog.text
    assert not output.exists()


def test_loading_the_package_does_not_load_the_exporters():
    code = (
        "import sys, lmf; assert not {'onnx', 'onnxscript', 'onnxruntime', 'torch.onnx', 'lmf.export'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
