"""Graphs that onnxruntime and PyTorch run give the pictures of the models they were made from."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from .conftest import CARD, photographs

pytestmark = pytest.mark.slow  # tracing a model takes several seconds
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

SIZES = [  # batch, input, output: whole and broken scales, also below 1, one scale per axis, a single pixel
    (1, (48, 36), (144, 108)),
    (2, (40, 56), (148, 207)),
    (3, (24, 32), (24, 32)),
    (1, (33, 47), (264, 376)),
    (2, (50, 20), (31, 83)),
    (1, (1, 1), (5, 3)),
]


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(running, **inputs):
    values = running.run(None, {k: v if isinstance(v, np.ndarray) else v.numpy() for k, v in inputs.items()})
    return dict(zip([o.name for o in running.get_outputs()], values, strict=True))


def expected(model, image, size):
    """What the fused kernels give, in [0, 1]."""
    with torch.no_grad():
        return model.upscale(image, size=size).numpy()


def cropped(name, size):
    """SwinIR's padding needs as many pixels as it adds."""
    return size if "swinir" not in name else tuple(max(5, n) for n in size)


@pytest.mark.parametrize("name", ["lm_liif_edsr", "lm_lte_edsr"])
def test_a_pretrained_model_as_one_graph(exported, name):
    model, files = exported(name, half=True)
    whole = session(files["model"])
    for batch, lr, size in SIZES:
        image = photographs(*lr, batch=batch)
        picture = run(whole, image=image, size=np.array(size))["picture"]
        assert picture.shape == (batch, 3, *size)
        assert np.abs(picture - expected(model, image, size)).max() < 1e-4, (lr, size)


@pytest.mark.parametrize("name", ["lm_liif_edsr", "lte-edsr"])
def test_a_model_as_two_graphs(exported, name):
    """The latent serves rendering in rectangles, as a viewer needs them."""
    model, files = exported(name, split=True, half=name in ("lm_liif_edsr",))
    first, second = session(files["latent"]), session(files["render"])
    for batch, lr, size in SIZES:
        image, scale = photographs(*lr, batch=batch), np.divide(size, lr)
        latent = run(first, image=image, scale=scale)
        whole = expected(model, image, size)

        def render(origin, size, latent=latent, scale=scale):
            return run(second, **latent, scale=scale, origin=np.array(origin), size=np.array(size))["picture"]

        assert np.abs(render((0, 0), size) - whole).max() < 1e-4, (lr, size)
        top, left = size[0] // 2, size[1] // 3
        part = render((top, left), (size[0] - top, size[1] - left))
        assert np.abs(part - whole[:, :, top:, left:]).max() < 1e-4, (lr, size)


@pytest.mark.parametrize(
    "name",
    [
        "liif-rdn",
        "lte_plus-edsr",
        "metasr-edsr",
        "lm_liif-swinir",
        "lm_lte-edsr",
        "lm_srno-edsr",
        "bicubic-identity",
        "thera-edsr",
        "thera_plus-edsr",
    ],
)
def test_other_models_as_one_graph(exported, name):
    model, files = exported(name)
    whole = session(files["model"])
    for batch, lr, size in SIZES:
        lr = cropped(name, lr)
        image = photographs(*lr, batch=batch)
        difference = run(whole, image=image, size=np.array(size))["picture"] - expected(model, image, size)
        assert np.abs(difference).max() < 1e-4, (lr, size)


def test_the_cell_is_an_input_of_its_own_name(exported):
    """A larger cell gives the picture that the model renders with that cell."""
    model, files = exported("lm_liif_edsr", split=True, half=True)
    image, scale = photographs(24, 32), np.array([4.0, 4.0])
    latent = run(session(files["latent"]), image=image, scale=scale)
    cell = latent.pop("cell") * 2
    inputs = {"scale": scale, "origin": np.array([0, 0]), "size": np.array([96, 128])}
    picture = run(session(files["render"]), **latent, cell=cell, **inputs)["picture"]
    with torch.no_grad():
        prepared = model.prepare(image * 2 - 1, (96, 128))
        wide = prepared.target.coord()[None]
        found = model.decoder.query(prepared.latent(), wide, torch.from_numpy(cell)[None])
    rgb = (found.transpose(1, 2).unflatten(2, (96, 128)) / 2 + 0.5).clamp(0, 1).numpy()
    assert np.abs(picture - rgb).max() < 1e-4
    assert np.abs(picture - expected(model, image, (96, 128))).max() > 1e-3


def test_half_precision_halves_the_file_and_is_exact_for_half_weights(exported):
    _, full = exported("lm_liif_edsr", split=True)
    _, half = exported("lm_liif_edsr", split=True, half=True)
    assert half["latent"].stat().st_size < 0.55 * full["latent"].stat().st_size
    image, scale = photographs(20, 20), np.array([2.5, 2.5])
    a, b = (run(session(files["latent"]), image=image, scale=scale) for files in (full, half))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_a_file_holds_the_card_and_no_trace_of_this_machine(exported):
    _, files = exported("lm_liif_edsr", half=True)
    found = session(files["model"]).get_modelmeta().custom_metadata_map
    assert json.loads(found["card"]) == CARD
    facts = json.loads(found["lmf"])
    assert facts["graph"] == "model"
    assert facts["architecture"] == "LMLIIF-EDSR"
    assert facts["config"]["decoder"]["_target_"] == "lmf.decoders.LMLIIF"
    content = files["model"].read_bytes()
    assert not any(word in content for word in (b"site-packages", b".py", b"lmf/export"))


def test_a_graph_has_only_operators_that_runtimes_share(exported):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    _, files = exported("lm_liif_edsr", half=True)
    graph = onnx.load(str(files["model"]))
    assert {opset.domain for opset in graph.opset_import} == {""}
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & {"GridSample", "Loop", "If", "Scan", "Resize", "NonZero", "Unique"}
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input}
    assert shapes == {"image": ["batch", 3, "height", "width"], "size": [2]}
    (picture,) = graph.graph.output
    assert [d.dim_param or d.dim_value for d in picture.type.tensor_type.shape.dim] == ["batch", 3, "rows", "cols"]


def test_a_torch_program_runs_without_the_package(exported, tmp_path):
    model, files = exported("lm_liif-edsr", fmt="torch_export", half=True)
    model.load_state_dict({name: weight.half().float() for name, weight in model.state_dict().items()})
    image = photographs(30, 22, batch=2)
    np.save(tmp_path / "image.npy", image.numpy())
    code = f"""
import sys, json
import numpy as np, torch
facts = {{"card": ""}}
program = torch.export.load({str(files["model"])!r}, extra_files=facts)
image = torch.from_numpy(np.load("image.npy"))
np.save("picture.npy", program.module()(image, torch.tensor([91, 83])).numpy())
assert "lmf" not in sys.modules
print(facts["card"] if isinstance(facts["card"], str) else facts["card"].decode())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == CARD
    assert np.abs(np.load(tmp_path / "picture.npy") - expected(model, image, (91, 83))).max() < 1e-4


def test_tracing_leaves_the_model_as_it_was(exported):
    model, _ = exported("lm_liif-edsr", fmt="torch_export", half=True)
    assert all(type(p) is torch.nn.Parameter and p.dtype == torch.float32 for p in model.parameters())
    assert not model.training
