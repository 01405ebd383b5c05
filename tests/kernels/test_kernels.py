"""Tests of the fused kernels against plain PyTorch, which other tests compare with outputs of the published models."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lmf import kernels
from lmf.grid import Grid, ensemble
from lmf.kernels import Weights, ops, reference
from tests.conftest import needs_compiler, needs_triton

CASES = [  # encoding, width, depth, code, extra
    ("linear", 16, 6, 16, 2),
    ("linear", 16, 1, 64, 2),
    ("linear", 32, 3, 32, 0),
    ("fourier", 16, 8, 32, 8),
    ("fourier", 16, 2, 256, 64),
    ("fourier", 32, 2, 64, 16),
]
BACKENDS = [pytest.param("cpu", marks=needs_compiler), pytest.param("triton", marks=needs_triton)]


def make(encoding: str, width: int, depth: int, code: int, extra: int, dtype=torch.float32, size=(5, 7), batch=2):
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int, gain: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).mul(gain).to(dtype)

    in_dim = code + 2 + extra if encoding == "linear" else code // 2
    weights = Weights(
        first=normal(width, in_dim, gain=in_dim**-0.5),
        hidden=normal(depth - 1, width, width, gain=width**-0.5),
        out=normal(3, width, gain=width**-0.5),
        bias=normal(depth, width, gain=0.3),
        out_bias=normal(3),
    )
    # A slice of a wider tensor, as hypernetworks give it.
    modulation = normal(batch, *size, 2 * depth * width + code, gain=0.5)
    modulation, codes = modulation.split([2 * depth * width, code], dim=-1)
    return modulation, codes, normal(batch, extra), weights


def scattered(batch: int, queries: int, dtype=torch.float32) -> Tensor:
    return torch.rand(batch, queries, 2, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_scattered_equals_reference(case, backend):
    modulation, code, extra, weights = make(*case)
    coord = scattered(2, 1003 if backend == "cpu" else 41)  # the emulation of Triton is slow
    with kernels.backend(backend):
        fused = kernels.render(modulation, code, extra, coord, weights, case[0])
    expected = reference.render(modulation, code, extra, coord, weights, case[0])
    torch.testing.assert_close(fused, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "size", [(5, 7), (15, 21), (13, 30), (3, 4), (40, 56), (9, 91)], ids=str
)  # x1, x3: exact ties; fractional; reduced; x8, x13: neighbouring pixels share all four latents
@pytest.mark.parametrize("encoding", ["linear", "fourier"])
def test_grid_equals_reference(encoding, size, backend):
    modulation, code, extra, weights = make(
        encoding, 16, 2, 16 if encoding == "linear" else 32, 2 if encoding == "linear" else 8
    )
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(2))
    whole = Grid.of(*size)
    rows, cols = size
    for target, skip in [(whole, image), (whole, None), (Grid(whole.cells, (1, rows - 1), (1, cols)), image)]:
        with kernels.backend("reference"):
            expected = kernels.render_grid(modulation, code, extra, target, skip, weights, encoding)
        with kernels.backend(backend):
            fused = kernels.render_grid(modulation, code, extra, target, skip, weights, encoding)
        torch.testing.assert_close(fused, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cells", [1, 2, 3, 7, 48, 90, 160])
def test_neighbours_and_ties_are_those_of_the_grid(cells, backend):
    """Each latent has a different colour, so that the picture shows which latents were blended and how."""
    width = cells
    modulation = torch.zeros(1, 1, width, 32)
    modulation[..., 16] = torch.arange(width) / width  # the shift of one hidden unit
    first, out = torch.zeros(16, 18), torch.zeros(3, 16)
    out[:, 0] = 1
    weights = Weights(first, torch.zeros(0, 16, 16), out, torch.zeros(1, 16), torch.zeros(3))
    scales = (1, 2, 3, 4, 5, 7) if backend == "cpu" else (1, 3)
    x = torch.cat([Grid.of(1, scale * width).coord()[:, 1] for scale in scales])
    x = torch.cat(
        [x, torch.tensor([-1.0, 1.0]), torch.nextafter(x, torch.ones(())), torch.nextafter(x, -torch.ones(()))]
    )
    coord = torch.stack([torch.zeros_like(x), x], dim=-1)[None]
    with kernels.backend(backend):
        fused = kernels.render(modulation, torch.zeros(1, 1, width, 16), torch.zeros(1, 0), coord, weights, "linear")
    index, _, weight = ensemble(coord, (1, width))
    expected = (weight * (index / width)).sum(0)[..., None].expand(-1, -1, 3)
    torch.testing.assert_close(fused, expected, atol=1e-6, rtol=0)


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_autograd(case):
    modulation, code, extra, weights = make(*case)
    leaves = [t.detach().requires_grad_() for t in (modulation, code, extra, *weights)]
    coord, grad = scattered(2, 700), torch.randn(2, 700, 3, generator=torch.Generator().manual_seed(3))
    rgb = reference.render(*leaves[:3], coord, Weights(*leaves[3:]), case[0])
    expected = torch.autograd.grad(rgb, leaves, grad, materialize_grads=True)
    with kernels.backend("cpu"):
        fused = torch.autograd.grad(kernels.render(*leaves[:3], coord, Weights(*leaves[3:]), case[0]), leaves, grad)
    with torch.no_grad():
        written = reference.backward(grad, *leaves[:3], coord, Weights(*leaves[3:]), case[0])
    for a, b, c in zip(expected, fused, written, strict=True):
        scale = float(a.abs().max()) if a.numel() else 1.0
        torch.testing.assert_close(b, a, atol=2e-6 * scale, rtol=1e-4)
        torch.testing.assert_close(c, a, atol=2e-6 * scale, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize(
    "case", [("linear", 16, 2, 16, 2), ("fourier", 16, 2, 32, 8), ("linear", 32, 1, 4, 0)], ids=str
)
def test_gradcheck_in_double(case):
    modulation, code, extra, weights = make(*case, dtype=torch.float64, size=(2, 3), batch=1)
    leaves = [t.detach().requires_grad_() for t in (modulation, code, extra, *weights)]
    coord = scattered(1, 5, torch.float64)

    def run(modulation, code, extra, *weights):
        return kernels.render(modulation, code, extra, coord, Weights(*weights), case[0])

    with kernels.backend("cpu"):
        assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@needs_compiler
def test_gradients_do_not_depend_on_threads():
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2, size=(9, 8))
    coord, grad = scattered(2, 4000), torch.ones(2, 4000, 3)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            with kernels.backend("cpu"):
                args = (modulation, code, extra, coord, *weights, "linear")
                found.append(ops.render_backward(grad, *args))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])  # of modulation, in one order always
    assert torch.equal(found[0][1], found[1][1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_a_coordinate_may_want_a_gradient():
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    coord = scattered(2, 9).requires_grad_()
    kernels.render(modulation, code, extra, coord, weights, "linear").sum().backward()
    assert coord.grad is not None
    assert coord.grad.abs().sum() > 0


def test_counts_the_macs_of_the_definition():
    modulation, code, extra, weights = make("linear", 16, 6, 16, 2)
    tensors = [t.to("meta") for t in (modulation, code, extra, *weights)]
    with FlopCounterMode(display=False) as counter:
        out = kernels.render(*tensors[:3], torch.empty(2, 100, 2, device="meta"), Weights(*tensors[3:]), "linear")
        kernels.render_grid(*tensors[:3], Grid.of(10, 10), None, Weights(*tensors[3:]), "linear")
    assert out.shape == (2, 100, 3)
    assert counter.get_total_flops() == 2 * 2 * 200 * 4 * (20 * 16 + 5 * 16 * 16 + 3 * 16)


def test_half_precision_is_cast_up_also_under_autocast():
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    coord = scattered(2, 20)
    expected = kernels.render(modulation, code, extra, coord, weights, "linear")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernels.render(modulation, code, extra, coord, weights, "linear"), expected)
    half = kernels.render(modulation.bfloat16(), code.bfloat16(), extra, coord, weights, "linear")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.1, rtol=0.1)


def test_operators_obey_the_rules_of_torch_library():
    modulation, code, extra, weights = make("fourier", 16, 2, 32, 8)
    args = (modulation, code, extra, scattered(2, 9), *(w.requires_grad_() for w in weights), "fourier")
    torch.library.opcheck(ops.render, args)


class Rendering(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        *_, weights = make("linear", 16, 2, 16, 2)
        self.mlp = torch.nn.ParameterList(weights)

    def forward(self, modulation: Tensor, code: Tensor, extra: Tensor, coord: Tensor) -> Tensor:
        return kernels.render(modulation, code, extra, coord, Weights(*self.mlp), "linear")


def test_exports_and_compiles_without_a_break():
    modulation, code, extra, _ = make("linear", 16, 2, 16, 2)
    inputs = (modulation, code, extra, scattered(2, 9))
    module = Rendering()
    expected = module(*inputs)
    exported = torch.export.export(module, inputs)
    assert any("lmf.render" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(*inputs), expected)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)
    compiled(*inputs).sum().backward()
    assert module.mlp[0].grad is not None


def test_errors_say_what_does_not_fit():
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    coord = scattered(2, 3)
    with pytest.raises(ValueError, match="need 64 modulations, got 63"):
        kernels.render(modulation[..., 1:], code, extra, coord, weights, "linear")
    with pytest.raises(ValueError, match="the first layer reads 20"):
        kernels.render(modulation, code[..., 1:], extra, coord, weights, "linear")
    with pytest.raises(ValueError, match="'fast'"), kernels.backend("fast"):
        pass


def test_other_widths_run_on_plain_torch():
    modulation, code, extra, weights = make("linear", 8, 2, 16, 2)
    coord = scattered(2, 11)
    fused = kernels.render(modulation, code, extra, coord, weights, "linear")
    torch.testing.assert_close(fused, reference.render(modulation, code, extra, coord, weights, "linear"))
    with pytest.raises(ValueError, match="'cpu' cannot serve width 8"), kernels.backend("cpu"):
        kernels.render(modulation, code, extra, coord, weights, "linear")
