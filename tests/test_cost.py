import time

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import register_flop_formula

from lmf import SRModel
from lmf.cost import CONVENTION, count, latency, on_meta, table
from lmf.decoders import LIIF, LMLIIF, Bicubic
from lmf.decoders.diif import DIIF
from lmf.encoders import EDSR, Identity
from lmf.renderers import Dense

# 10^9 MACs of the decoders of LIIF and LM-LIIF
PAPER = {
    2: (318.7, 10.9),
    3: (717.2, 12.8),
    4: (1275.0, 15.5),
    6: (2868.7, 23.1),
    8: (5099.9, 33.7),
    12: (11474.7, 64.1),
}


def tiny(decoder: torch.nn.Module | None = None) -> SRModel:
    return SRModel(EDSR(out_channels=8, blocks=1), decoder or LIIF(8, hidden=[16]))


@pytest.mark.parametrize("scale", PAPER)
def test_published_models_at_320_x_180(scale):
    liif = count(SRModel(EDSR(), LIIF()), (180, 320), scale=scale)
    lm_liif = count(SRModel(EDSR(), LMLIIF()), (180, 320), scale=scale)
    assert (round(liif.decoder_macs / 1e9, 1), round(lm_liif.decoder_macs / 1e9, 1)) == PAPER[scale]
    assert round(liif.encoder_macs / 1e9, 1) == 70.2
    assert liif.encoder_params == 1_220_416
    assert (liif.decoder_params, lm_liif.decoder_params) == (346_883, 165_651)
    assert liif.latent_macs == 0
    assert lm_liif.render_macs_per_query == 4 * (20 * 16 + 5 * 16 * 16 + 16 * 3)


def test_by_hand_for_odd_sizes():
    cost = count(tiny(), (7, 5), scale=2.5)
    assert cost.size == (18, 12)
    assert cost.queries == 18 * 12
    assert cost.encoder_macs == 7 * 5 * 9 * (3 * 8 + 3 * 8 * 8)
    assert cost.render_macs == 18 * 12 * 4 * ((9 * 8 + 4) * 16 + 16 * 3)
    assert cost.total_macs == cost.encoder_macs + cost.render_macs
    assert count(tiny(), (7, 5), size=(18, 12)) == cost
    assert count(SRModel(Identity(), Bicubic()), (7, 5), scale=3).total_macs == 0


def test_counting_leaves_the_model_alone_and_does_not_copy_weights():
    model = tiny().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert all(p.is_meta for p in on_meta(model).parameters())
    count(model, (8, 8), scale=2)
    assert model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_work_that_depends_on_values_is_counted_on_the_model_itself():
    model = tiny(DIIF(8, coarse=[16, 16], fine=[16], slicing="linear"))
    cost = count(model, (6, 6), scale=4)
    slices = 6 * 6 * 4
    assert cost.render_macs == slices * (4 * 16 + 16 * 16 + 16 * 16) + cost.queries * (2 * 16 + 16 * 3)


def test_custom_operators_count_by_their_formula():
    @torch.library.custom_op("lmf_test::double_product", mutates_args=())
    def double_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 2 * (a @ b)

    double_product.register_fake(lambda a, b: a.new_empty(*a.shape[:-1], b.shape[-1]))

    @register_flop_formula(torch.ops.lmf_test.double_product)
    def flops(a: torch.Size, b: torch.Size, *args: object, **kwargs: object) -> int:
        return 2 * a.numel() * b[1]

    class Fused(LIIF):
        def decode(self, latent, coord, cell):
            return double_product(coord, coord.new_zeros(2, 3))

    assert count(tiny(Fused(8)), (4, 4), scale=3).render_macs == 12 * 12 * 2 * 3


def test_latency_measures_each_stage_and_leaves_no_trace():
    class Slow(Dense):
        def __call__(self, *args):
            time.sleep(0.05)
            return super().__call__(*args)

    model = SRModel(EDSR(out_channels=8, blocks=1), LIIF(8, hidden=[16]), Slow()).train()
    model.decoder.eval()
    state = torch.get_rng_state()
    timing = latency(model, (16, 16), scale=2, repeats=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.encoder.training
    assert not model.decoder.training
    assert all(p.grad is None for p in model.parameters())
    assert 0.05 <= timing.render < 1
    assert 0 < timing.encoder < timing.render
    assert timing.total >= max(timing.encoder, timing.latent, timing.render)
    assert (timing.repeats, timing.device) == (3, "cpu")
    assert latency(model, (16, 16), scale=2, repeats=50, budget=0).repeats == 1


def test_peak_memory_on_the_cpu_sees_a_large_temporary():
    class Greedy(Dense):
        def __call__(self, *args):
            big = torch.ones(128 << 20, dtype=torch.uint8)
            time.sleep(0.02)
            return super().__call__(*args) + big[0]

    timing = latency(SRModel(Identity(), Bicubic(), Greedy()), (8, 8), scale=2, repeats=1)
    if timing.peak_bytes is None:
        pytest.skip("needs /proc/self/statm")
    assert 120 << 20 < timing.peak_bytes < 300 << 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_latency_and_memory_on_cuda():
    model = tiny().cuda()
    timing = latency(model, (64, 64), scale=4)
    assert timing.peak_bytes > 3 * 256 * 256 * 4
    assert timing.device == "cuda:0"


def test_table_states_the_convention(capsys):
    model = tiny()
    costs, timings = [count(model, (8, 12), scale=2)], [latency(model, (8, 12), scale=2)]
    Console(width=80).print(table(costs, timings, "EDSR + LIIF"))
    text = " ".join(capsys.readouterr().out.split())
    assert CONVENTION in text
    assert "24x16" in text
    assert "1,976 parameters in the encoder, 1,283 in the decoder" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_size": (8, 8)}, "either scale or size"),
        ({"lr_size": (0, 8), "scale": 2}, r"lr_size must be .* got \(0, 8\)"),
        ({"lr_size": (8, 8), "scale": 2, "repeats": 0}, "warmup and repeats must be at least 1, got 1 and 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        latency(tiny(), **options)
