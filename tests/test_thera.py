"""Compare Thera with outputs, derivatives and gradients of the authors' released code."""

import copy

import pytest
import torch

from lmf import kernels
from lmf.grid import Grid, holder
from tests import golden
from tests.conftest import needs_compiler, needs_triton

MODELS = golden.thera()
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "thera_rdn_air" else name for name in MODELS]
BACKENDS = ["reference", pytest.param("cpu", marks=needs_compiler), pytest.param("triton", marks=needs_triton)]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    g = MODELS[request.param]
    return g, g.model()


def query(g, model, dtype=torch.float32):
    """The first argument of `Thera.decode` and the queries."""
    lr, coord, cell = (t.to(dtype) for t in (g.lr, g.tensors["query_coord"][None], g.tensors["query_cell"]))
    return model.latent(lr, cell), coord, cell


def off(ours, theirs):
    return (ours - theirs).abs().max().item()


def picture(model, lr, size):
    return model.render(lr, size)[0].permute(1, 2, 0) / 2 + 0.5


@torch.inference_mode()
@pytest.mark.parametrize("backend", BACKENDS)
def test_queries(case, backend):
    g, model = case
    latent, coord, cell = query(g, model)
    with kernels.backend(backend):
        rgb = model.decoder.query(latent, coord, cell)
    assert off(rgb[0] / 2 + 0.5, g.tensors["query_out"]) < 1e-4
    base = model.decoder.fields(latent, cell)[-1].flatten(2).mT
    field = rgb[0] - base[0, holder(coord, latent.size)[0][0]]
    assert off(field, g.tensors["query_field"]) < 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_pictures(case, backend):
    g, model = case
    with kernels.backend(backend):
        assert off(picture(model, g.lr, (48, 63)), g.tensors["out_13x17_x3.7"]) < 1e-4


@torch.inference_mode()
def test_derivatives_and_encodings(case):
    g, model = case
    latent, coord, cell = query(g, model)
    theirs = g.tensors["query_jacobian_first100"]  # of the first 100 queries
    assert off(model.decoder.jacobian(latent, coord[:, :100])[0], theirs) < 1e-4 * theirs.abs().max()
    encoding = model.decoder.refine(model.features(g.lr))[0, :4].permute(1, 2, 0)
    assert off(encoding, g.tensors["encoding_13x17_first4"]) < 1e-4
    decay = model.decoder.fields(latent, cell)[2]
    damped = (-model.decoder.frequencies.square().sum(0) * model.decoder.diffusivity * g.tensors["query_t"]).exp()
    torch.testing.assert_close(decay[0], damped)


def test_gradients(case):
    g, model = case
    model = copy.deepcopy(model).double()
    latent, coord, cell = query(g, model, torch.float64)
    base = model.decoder.fields(latent, cell)[-1].flatten(2).mT
    field = model.decoder.query(latent, coord, cell) - base[:, holder(coord, latent.size)[0][0]]
    field.abs().mean().backward()
    parameters, gradients = dict(model.named_parameters()), g.gradients()
    assert len(gradients) == sum(key.startswith("grad_") for key in g.tensors) > 0
    for key, theirs in gradients.items():
        assert off(parameters[key].grad, theirs) < 1e-4 * theirs.abs().max(), key


@torch.inference_mode()
def test_four_rotations():
    """The authors evaluate the mean over four rotations."""
    g = MODELS["thera_air"]
    model, total = g.model(), 0.0
    for turns in range(4):
        size = (39, 51) if turns % 2 == 0 else (51, 39)
        turned = model.render(torch.rot90(g.lr, turns, (2, 3)), size)
        total = total + torch.rot90(turned, -turns, (2, 3)) / 4
    assert off(total[0].permute(1, 2, 0) / 2 + 0.5, g.tensors["ens_13x17_x3"]) < 1e-4


@torch.inference_mode()
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_all_pictures(shared, name):
    g = golden.load(shared / "golden" / f"{name}.safetensors")
    model = g.model()
    for h, w, scale, height, width in g.cases:
        lr = golden.image(g.tensors[f"lr_{h}x{w}"])
        theirs = g.tensors[f"out_{h}x{w}_x{scale}"]
        assert off(picture(model, lr, (height, width)), theirs) < 1e-4
        target = Grid.of(height, width)
        rgb = model(lr, target.coord()[None], torch.tensor([target.cell]))
        assert off(rgb.view(height, width, 3) / 2 + 0.5, theirs) < 1e-4
