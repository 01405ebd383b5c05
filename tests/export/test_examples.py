"""The examples of the documentation for other programs."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ..conftest import ROOT
from .conftest import photographs


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_onnxruntime_numpy_and_pillow_are_enough(exported, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model, files = exported("lm_liif_edsr", half=True)
    photo = (photographs(30, 40)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    script = ROOT / "docs" / "enlarge_onnx.py"
    code = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'lmf'])); "
        f"sys.argv = [{str(script)!r}, {str(files['model'])!r}, 'photo.png', '2.6', 'large.png']; "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    large, right = np.asarray(Image.open(tmp_path / "large.png")), model.upscale(np.float32(photo) / 255, scale=2.6)
    assert large.shape == right.shape
    assert np.abs(large - right * 255).max() < 0.5 + 255e-4
    assert len(script.read_text().splitlines()) <= 30


def test_comfyui_nodes_follow_its_protocol():
    """ComfyUI calls the method FUNCTION of a new object with the values that INPUT_TYPES names."""
    nodes = load(ROOT / "docs" / "comfyui_lmf.py")
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()

    def call(node_name, **values):
        node = nodes.NODE_CLASS_MAPPINGS[node_name]
        inputs = node.INPUT_TYPES()
        assert inputs["required"].keys() <= values.keys() <= {**inputs["required"], **inputs.get("optional", {})}.keys()
        results = getattr(node(), node.FUNCTION)(**values)
        assert len(results) == len(node.RETURN_TYPES)
        return results[0]

    (names, *_) = nodes.LoadLMF.INPUT_TYPES()["required"]["name"]
    assert "lm_liif_edsr" in names
    model = call("LoadLMF", name="lm_liif_edsr")
    image = photographs(20, 26, batch=2).movedim(1, -1)
    large = call("UpscaleLMF", model=model, image=image, scale=2.5)
    assert large.shape == (2, 50, 65, 3)
    assert torch.equal(large.movedim(-1, 1), model.model.upscale(image.movedim(-1, 1), scale=2.5))


SPANDREL = """
import sys
import torch
try:
    import torchvision
except RuntimeError:  # a build for another torch: declare the operators that spandrel does not call
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import spandrel
import importlib.util
spec = importlib.util.spec_from_file_location("comfyui_lmf", sys.argv[1])
nodes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nodes)
(model,) = nodes.LoadLMF().load("lm_liif_edsr")
(found,) = nodes.LMFAsUpscaleModel().convert(model, 3)
assert isinstance(found, spandrel.ImageModelDescriptor)
assert (found.scale, found.input_channels, found.output_channels, found.purpose) == (3, 3, 3, "SR")
image = torch.rand(1, 3, 11, 14)
large = found.to("cpu").eval()(image)
assert torch.equal(large, model.model.upscale(image, scale=3))
try:
    found.half()
except spandrel.UnsupportedDtypeError:
    print("right")
"""


def test_spandrel_accepts_the_model():
    if not all(importlib.util.find_spec(name) for name in ("spandrel", "torchvision")):
        pytest.skip("needs spandrel and torchvision")
    command = [sys.executable, "-c", SPANDREL, ROOT / "docs" / "comfyui_lmf.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr
