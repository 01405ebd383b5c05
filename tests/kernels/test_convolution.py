"""Tests of the convolutions against PyTorch's in float64."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lmf import kernels
from lmf.kernels import convolution_ops
from tests.conftest import needs_compiler

pytestmark = needs_compiler

# batch, input and output channels, height, width
SHAPES = [
    (1, 64, 64, 23, 18),
    (2, 16, 16, 5, 7),
    (1, 8, 24, 1, 1),
    (3, 20, 12, 1, 30),  # channels that no register divides
    (1, 32, 64, 31, 1),
    (1, 180, 180, 8, 16),
    (1, 256, 8, 9, 9),  # two blocks of input channels
    (2, 300, 70, 6, 13),
    (1, 48, 256, 4, 4),
    (5, 64, 64, 16, 16),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(batch: int, inputs: int, outputs: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, weight, bias and a skip connection; results are about 1."""
    weight = noise(outputs, inputs, 3, 3, seed=1) / (9 * inputs) ** 0.5
    return noise(batch, inputs, h, w), weight, noise(outputs, seed=2), noise(batch, outputs, h, w, seed=3)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 5e-6) -> None:
    """Compare with ``expected``, by its largest number."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1.0, float(expected.detach().abs().max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape):
    x, weight, bias, skip = make(*shape)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert kernels.serves(x, *weight.shape[:2])
    assert_near(kernels.conv3x3(x, weight, bias), expected)
    assert_near(kernels.conv3x3(x, weight), expected - bias.double()[:, None, None])
    assert_near(kernels.conv3x3(x, weight, bias, relu=True), expected.relu())
    assert_near(kernels.conv3x3(x, weight, bias, skip=skip, scale=0.1), 0.1 * expected + skip)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_equal_float64(shape):
    tensors = [t.requires_grad_() for t in make(*shape)]
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    grad = noise(*tensors[3].shape, seed=4)
    for relu in (True, False):
        x, weight, bias, skip = doubles
        plain = F.conv2d(x, weight, bias, padding=1)
        expected = torch.autograd.grad(
            plain.relu() if relu else 0.5 * plain + skip, doubles[: 3 + (not relu)], grad.double()
        )
        x, weight, bias, skip = tensors
        fused = (
            kernels.conv3x3(x, weight, bias, relu=True)
            if relu
            else kernels.conv3x3(x, weight, bias, skip=skip, scale=0.5)
        )
        kept = (plain.detach().abs() > 1e-5).all() or not relu  # rounding may turn a ReLU
        actual = torch.autograd.grad(fused, tensors[: 3 + (not relu)], grad)
        for a, b in zip(actual, expected, strict=True):
            assert_near(a, b, 1e-5 if kept else 1e-2)


def test_second_gradients_equal_float64():
    tensors = [t.requires_grad_() for t in make(1, 8, 12, 5, 6)[:3]]
    doubles = [t.detach().double().requires_grad_() for t in tensors]

    def penalty(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Return gradients of a function of the gradients."""
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    expected = penalty(F.conv2d(doubles[0], doubles[1], doubles[2], padding=1), doubles)
    for a, b in zip(penalty(kernels.conv3x3(*tensors), tensors), expected, strict=True):
        assert_near(a, b, 1e-5)


def test_memory_formats_agree():
    x, weight, bias, skip = make(2, 32, 16, 9, 10)
    expected = kernels.conv3x3(x, weight, bias, skip=skip)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    last = {"memory_format": torch.channels_last}
    wide = noise(2, 48, 9, 10).contiguous(**last)
    wide[:, 8:40] = x
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (x.contiguous(**last), wide[:, 8:40], transposed, torch.cat([x, x])[2:]):
        assert torch.equal(kernels.conv3x3(other, weight, bias, skip=skip), expected)
    assert torch.equal(kernels.conv3x3(x, weight.contiguous(**last), bias, skip=skip.contiguous(**last)), expected)
    every = noise(16, 2)[:, 0]
    assert not every.is_contiguous()
    assert torch.equal(kernels.conv3x3(x, weight, every), kernels.conv3x3(x, weight, every.contiguous()))
    one = x[:1, :, :1, :1].expand(2, 32, 9, 10)
    assert torch.equal(kernels.conv3x3(one, weight, bias), kernels.conv3x3(one.contiguous(), weight, bias))


@pytest.mark.parametrize("shape", [(0, 16, 5, 5), (1, 16, 0, 5), (2, 16, 5, 0)], ids=str)
def test_empty_maps(shape):
    x = torch.zeros(shape, requires_grad=True)
    weight, bias = noise(8, 16, 3, 3).requires_grad_(), noise(8).requires_grad_()
    y = kernels.conv3x3(x, weight, bias)
    assert y.shape == (shape[0], 8, *shape[2:])
    for gradient in torch.autograd.grad(y.sum(), (x, weight, bias)):
        assert not gradient.any()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_odd_values_stay_in_their_tiles(odd):
    x, weight, bias, _ = make(1, 16, 16, 24, 24)
    expected = kernels.conv3x3(x, weight, bias)
    x[0, 3, 9, 13] = odd
    y = kernels.conv3x3(x, weight, bias, relu=True)
    direct = F.conv2d(x, weight, bias, padding=1).relu()
    changed = (y != expected.relu()).any(1)[0]
    touched = np.argwhere(changed.numpy())
    assert touched.min(0).tolist() >= [8, 12]
    assert touched.max(0).tolist() <= [11, 15]
    assert not torch.isfinite(y[0, :, 8:11, 12:15][~torch.isfinite(direct[0, :, 8:11, 12:15])]).any()


def test_rounding_depends_only_on_the_place_in_a_tile():
    x, weight, bias, _ = make(1, 64, 64, 40, 52)
    whole = kernels.conv3x3(x, weight, bias)
    part = kernels.conv3x3(x[:, :, 8:32, 4:48], weight, bias)
    assert torch.equal(part[:, :, 4:-4, 4:-4], whole[:, :, 12:28, 8:44])
    shifted = kernels.conv3x3(x[:, :, 7:32, 3:48], weight, bias)
    assert_near(shifted[:, :, 1:-1, 1:-1], whole[:, :, 8:31, 4:47])
    batch = kernels.conv3x3(torch.cat([x.flip(2), x]), weight, bias)
    assert torch.equal(batch[1:], whole)


@pytest.mark.parametrize("shape", [(1, 64, 64, 90, 50), (16, 64, 32, 20, 20), (1, 300, 40, 30, 33)], ids=str)
def test_threads_do_not_change_results(shape):
    x, weight, bias, skip = make(*shape)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            y = kernels.conv3x3(x, weight, bias, skip=skip)
            results.append((y, convolution_ops.conv3x3_weight(x, skip)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_calls_in_several_threads_agree():
    x, weight, bias, _ = make(1, 32, 32, 40, 40)
    weights, biases = [weight] * 5, [bias * 0.1] * 5
    expected = kernels.residual_blocks(x, weights, biases)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: kernels.residual_blocks(x, weights, biases), range(12)):
            assert torch.equal(y, expected)


FORKED = """
import os, signal, torch
from lmf import kernels
torch.set_num_threads(2)
x, weight = torch.randn(1, 64, 60, 60), torch.randn(64, 64, 3, 3)
before = kernels.conv3x3(x, weight)
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(0 if torch.equal(before, kernels.conv3x3(x, weight)) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_convolves():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=200)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_residual_blocks_equal_float64(scale, gradients):
    x = noise(2, 24, 11, 14)
    weights = [noise(24, 24, 3, 3, seed=i).div(15).requires_grad_() for i in range(5)]
    biases = [noise(24, seed=i).requires_grad_() for i in range(5)]
    kept = x.clone()

    def body(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        conv = lambda y, i: F.conv2d(y, weights[i], biases[i], padding=1)  # noqa: E731
        y = x
        for i in (0, 2):
            y = y + scale * conv(conv(y, i).relu(), i + 1)
        return x + conv(y, 4)

    doubles = [t.detach().double().requires_grad_() for t in (*weights, *biases)]
    expected = body(x.double(), doubles[:5], doubles[5:])
    with torch.set_grad_enabled(gradients):
        y = kernels.residual_blocks(x, weights, biases, scale)
    assert_near(y, expected)
    assert torch.equal(x, kept)
    if gradients:
        a = torch.autograd.grad(y.sum(), (*weights, *biases))
        for got, want in zip(a, torch.autograd.grad(expected.sum(), doubles), strict=True):
            assert_near(got, want, 1e-5)
    else:
        with pytest.raises(RuntimeError, match="grad"):
            y.sum().backward()


@pytest.mark.parametrize("gradients", [True, False])
def test_dense_block_equals_float64(gradients):
    x = noise(2, 16, 7, 9)
    weights = [noise(8, 16 + 8 * i, 3, 3, seed=i).div(10).requires_grad_() for i in range(3)]
    biases = [noise(8, seed=i).requires_grad_() for i in range(3)]
    with torch.set_grad_enabled(gradients):
        y = kernels.dense_block(x, weights, biases)
    expected = x.double()
    for weight, bias in zip(weights, biases, strict=True):
        more = F.conv2d(expected, weight.double(), bias.double(), padding=1).relu()
        expected = torch.cat([expected, more], 1)
    assert_near(y, expected.detach())
    assert y.requires_grad == gradients


def test_others_are_computed_by_pytorch():
    x, weight, bias, _ = make(1, 16, 16, 6, 6)
    narrow, few = weight[:, :4], weight[:4]

    def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Return whether a convolution is PyTorch's own, bit by bit."""
        return torch.equal(kernels.conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1))

    assert not direct(x, weight, bias)
    assert direct(x[:, :4], narrow, bias)
    assert direct(x, few, bias[:4])
    assert direct(x.double(), weight.double(), bias.double())
    assert direct(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    for block in (kernels.encoder("torch"), kernels.backend("reference"), torch.autocast("cpu")):
        with block:
            assert direct(x, weight, bias)


def test_registration():
    """PyTorch's own checks of shapes, gradients and tracing."""
    x, weight, bias, skip = (t.requires_grad_() for t in make(2, 8, 12, 5, 6))
    torch.library.opcheck(convolution_ops.conv3x3, (x, weight, bias, False, skip, 0.5))
    torch.library.opcheck(convolution_ops.conv3x3, (x, weight, bias, True, None, 1.0))
    torch.library.opcheck(convolution_ops.conv3x3_weight, (x, skip))
    with torch.no_grad():
        square = noise(8, 8, 3, 3)
        torch.library.opcheck(convolution_ops.residual_blocks, (x, [square] * 3, [bias[:8]] * 3, 0.5))
        torch.library.opcheck(convolution_ops.dense_block, (x, [weight], [bias]))


def test_compiled_functions_use_it():
    x, weight, bias, skip = make(2, 16, 16, 8, 8)
    compiled = torch.compile(
        lambda x: kernels.conv3x3(x.relu(), weight, bias, skip=skip), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(x), kernels.conv3x3(x.relu(), weight, bias, skip=skip))


def test_direct_multiply_adds_are_counted():
    x, weight, bias, _ = make(2, 16, 16, 8, 9)
    x.requires_grad_()
    weight.requires_grad_()

    def flops(name: str) -> int:
        with FlopCounterMode(display=False) as counter, kernels.encoder(name):
            kernels.conv3x3(x, weight, bias).sum().backward()
            with torch.no_grad():
                kernels.residual_blocks(x, [weight] * 3, [bias] * 3)
                kernels.dense_block(x, [weight, torch.zeros(16, 32, 3, 3)], [bias] * 2)
        return counter.get_total_flops()

    one = 2 * 2 * 8 * 9 * 16 * 16 * 9
    assert flops("winograd") == one * (3 + 3 + 3) == flops("torch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": noise(16, 5, 5)}, "x must be"),
        ({"weight": noise(16, 15, 3, 3)}, "x must be"),
        ({"weight": noise(16, 16, 5, 5)}, "x must be"),
        ({"bias": noise(15)}, "bias must be"),
        ({"bias": noise(16).double()}, "bias must be torch.float32"),
        ({"skip": noise(1, 16, 5, 6)}, "skip must be"),
        ({"relu": True, "skip": noise(1, 16, 5, 5)}, "either a ReLU"),
        ({"relu": True, "scale": 2.0}, "either a ReLU"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change, message):
    x, weight, bias, _ = make(1, 16, 16, 5, 5)
    arguments = {"x": x, "weight": weight, "bias": bias, "relu": False, "skip": None, "scale": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        convolution_ops.conv3x3(**arguments)


def test_sequences_that_do_not_fit_are_refused():
    x, weight, bias, _ = make(1, 16, 16, 5, 5)
    with pytest.raises(ValueError, match="odd number"):
        kernels.residual_blocks(x, [weight] * 2, [bias] * 2)
    with pytest.raises(ValueError, match="skip must be"):
        kernels.residual_blocks(x, [weight[:8]], [bias[:8]])
    with pytest.raises(ValueError, match="as many weights"):
        kernels.dense_block(x, [weight] * 2, [bias])
    with pytest.raises(ValueError, match=r"C', C, 3, 3"):
        kernels.dense_block(x, [weight, weight], [bias, bias])


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="got int8"), kernels.encoder("int8"):
        pass
