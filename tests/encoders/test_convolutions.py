"""Encoders compute their convolutions with `lmf.kernels`, unless that would change what others see."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmf import SRModel, kernels
from lmf.decoders import LMLIIF
from lmf.encoders import EDSR, RDN, SwinIR
from lmf.kernels import choice
from tests.conftest import needs_compiler

pytestmark = needs_compiler

ENCODERS = {
    "edsr": lambda: EDSR(16, 3),
    "edsr, scaled": lambda: EDSR(64, 2, 0.1),
    "rdn": lambda: RDN(16, 2, 3, 8),
    "swinir": lambda: SwinIR(out_channels=8, embed=20, depths=[2, 2], heads=[2, 2], drop_path=0.0),
}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    return ENCODERS[request.param]()


def image(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def operators(work) -> list[str]:
    """Return the names of all operators that ``work`` runs."""
    with torch.profiler.profile() as profile:
        work()
    return [event.name for event in profile.events()]


def fused(work) -> bool:
    return any(name.startswith("lmf::") for name in operators(work))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@torch.no_grad()
@pytest.mark.parametrize("size", [(2, 3, 24, 16), (1, 3, 8, 40)], ids=str)
def test_features_equal_those_in_float64(encoder, size):
    x = image(*size)
    expected = copy.deepcopy(encoder).double()(x.double())
    assert fused(lambda: encoder(x))
    assert relative(encoder(x), expected) < 3e-6
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(encoder(last), encoder(x)) or relative(encoder(last), expected) < 3e-6
    with kernels.encoder("torch"):
        assert not fused(lambda: encoder(x))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 3, 1, 1), (1, 3, 1, 17), (3, 3, 13, 2)], ids=str)
def test_small_pictures(size):
    torch.manual_seed(0)
    for encoder in (EDSR(16, 2), RDN(16, 2, 2, 8)):
        expected = copy.deepcopy(encoder).double()(image(*size).double())
        assert relative(encoder(image(*size)), expected) < 3e-6


def test_gradients_equal_those_in_float64(encoder):
    x, double = image(2, 3, 16, 8), copy.deepcopy(encoder).double()
    expected = torch.autograd.grad(double(x.double()).square().mean(), [*double.parameters()])
    assert fused(lambda: encoder(x).mean().backward())
    actual = torch.autograd.grad(encoder(x).square().mean(), [*encoder.parameters()])
    for a, b in zip(actual, expected, strict=True):
        assert relative(a, b) < 2e-3, "more than a few ReLUs that rounding turns"
    assert sorted(relative(a, b) for a, b in zip(actual, expected, strict=True))[len(actual) // 2] < 1e-4


def test_a_frozen_head_leaves_the_rest_trainable():
    encoder = EDSR(16, 2)
    encoder.head.requires_grad_(False)
    encoder(image(1, 3, 8, 8)).sum().backward()
    assert encoder.head.weight.grad is None
    assert all(p.grad is not None for p in (*encoder.blocks.parameters(), *encoder.tail.parameters()))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["conv", "block", "before", "global"])
@pytest.mark.parametrize("make", [lambda: EDSR(16, 2), lambda: RDN(16, 2, 2, 8)], ids=["edsr", "rdn"])
def test_hooks_are_called(make, kind):
    """Tools that count or read features through hooks see every convolution."""
    encoder, seen = make(), []
    convs, blocks = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)], [*encoder.blocks]
    plain = encoder(image(1, 3, 8, 8))

    def see(module, *_):
        seen.append(module)

    if kind == "global":
        handles = [nn.modules.module.register_module_forward_hook(see)]
    elif kind == "before":
        handles = [m.register_forward_pre_hook(see) for m in convs]
    else:
        handles = [m.register_forward_hook(see) for m in (blocks if kind == "block" else convs)]
    try:
        hooked = encoder(image(1, 3, 8, 8))
    finally:
        for handle in handles:
            handle.remove()
    assert {id(m) for m in (blocks if kind == "block" else convs)} <= {id(m) for m in seen}
    torch.testing.assert_close(hooked, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_replaced_convolutions_are_called():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    encoder, x = EDSR(16, 2), image(1, 3, 8, 8)
    twice = copy.deepcopy(encoder)
    twice.blocks[1].conv2 = Doubled(16, 16, 3, padding=1)
    twice.blocks[1].conv2.load_state_dict(encoder.blocks[1].conv2.state_dict())
    for parameter in encoder.blocks[1].conv2.parameters():
        parameter *= 2
    torch.testing.assert_close(twice(x), encoder(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [{"padding_mode": "reflect"}, {"dilation": 2, "padding": 2}, {"bias": False}], ids=str
)
def test_other_convolutions_are_computed_as_they_are(change):
    torch.manual_seed(0)
    encoder, x = EDSR(16, 2), image(1, 3, 9, 10)
    encoder.blocks[0].conv1 = nn.Conv2d(16, 16, 3, **{"padding": 1, **change})
    expected = copy.deepcopy(encoder).double()(x.double())
    assert relative(encoder(x), expected) < 3e-6


@torch.no_grad()
def test_changed_weights_take_effect(encoder):
    x = image(1, 3, 8, 8)
    before = encoder(x)
    for parameter in encoder.parameters():
        parameter.data.mul_(0.9)  # changes no version counter
    after = encoder(x)
    assert not torch.allclose(before, after)
    assert relative(after, copy.deepcopy(encoder).double()(x.double())) < 3e-6


@torch.no_grad()
def test_multiply_adds_are_those_of_direct_convolutions(encoder):
    def flops(name: str) -> int:
        with kernels.encoder(name), FlopCounterMode(display=False) as counter:
            encoder(image(1, 3, 8, 8))
        return counter.get_total_flops()

    assert flops("winograd") == flops("torch")


def test_exported_graphs_have_plain_convolutions():
    program = torch.export.export(EDSR(16, 2).eval(), (image(1, 3, 8, 8),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("conv2d" in target for target in targets)
    assert not any("lmf" in target for target in targets)
    traced = torch.jit.trace(EDSR(16, 2).eval(), image(1, 3, 8, 8))
    assert "lmf::" not in str(traced.inlined_graph)


def test_compiled_encoders_give_the_same(encoder):
    x = image(1, 3, 8, 8)
    compiled = torch.compile(encoder, backend="aot_eager")
    torch.testing.assert_close(compiled(x), encoder(x), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), encoder(x), atol=1e-5, rtol=1e-4)


def test_bf16_is_less_exact_and_stays_in_the_encoder():
    torch.manual_seed(0)
    model, x = SRModel(EDSR(16, 2), LMLIIF(16, hyper=[16])).eval(), image(1, 3, 8, 8)
    with torch.no_grad(), kernels.encoder("torch"):
        exact = model.features(x)
    with torch.no_grad(), kernels.encoder("bf16"):
        half = model.features(x)
    assert half.dtype == torch.float32
    assert 1e-4 < relative(half, exact) < 3e-2
    with kernels.encoder("bf16"):
        assert relative(model.features(x), exact) < 1e-6, "training is exact"
    assert model.double().features(x.double()).dtype == torch.float64


def test_the_fastest_is_measured_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LMF_CACHE", str(tmp_path))
    calls, times = [], {"winograd": 2.0, "torch": 3.0, "bf16": 1.0}
    monkeypatch.setattr(choice, "measure", lambda: calls.append(1) or times)

    def chosen(*names: str) -> str:
        choice.fastest.cache_clear()
        with kernels.encoder(*names):
            return choice.current()

    try:
        assert chosen("winograd", "torch") == "winograd"
        assert chosen("winograd", "bf16") == "bf16"
        assert len(calls) == 1
        assert chosen("torch") == "torch"
        (kept,) = tmp_path.glob("encoders-*.json")
        kept.unlink()
        monkeypatch.setattr(choice, "measure", lambda: None)
        assert chosen("torch", "winograd") == "torch", "too busy to measure"
    finally:
        choice.fastest.cache_clear()


def test_measuring_times_every_implementation(monkeypatch):
    for limit in ("STEADY", "BUDGET"):  # on a busy machine too
        monkeypatch.setattr(choice.measurements, limit, float("inf"))
    times = choice.measure()
    assert times.keys() == {*kernels.ENCODERS}
    assert all(0 < seconds < 60 for seconds in times.values())
