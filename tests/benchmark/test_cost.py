import time

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import register_flop_formula

from lmf import SRModel
from lmf.benchmark.cost import CONVENTION, count, latency, on_meta
from lmf.benchmark.tables import cost_table
from lmf.decoders import DIIF, LIIF, LMLIIF, LMLTE, LTE, Bicubic, CiaoSR, LMCiaoSR
from lmf.decoders.lte import fourier
from lmf.encoders import EDSR, RDN, Identity, SwinIR
from lmf.renderers import Dense

# Published GMACs of the decoders at 320 x 180
SCALES = (2, 3, 4, 6, 8, 12)
PAPER = {
    LIIF: (318.7, 717.2, 1275.0, 2868.7, 5099.9, 11474.7),
    LMLIIF: (10.9, 12.8, 15.5, 23.1, 33.7, 64.1),
    LTE: (199.1, 426.8, 745.5, 1656.2, 2931.2, 6573.9),
    LMLTE: (17.4, 19.8, 23.2, 32.9, 46.5, 85.5),
    CiaoSR: (1179.5, 2457.5, 4246.7, 9358.7, 16515.5, 36963.5),
    LMCiaoSR: (250.2, 253.0, 256.8, 267.8, 283.2, 327.1),
}
# Multiply-adds of the published code, counted by hand: per latent and per query (four neighbours), and how many of them
# depend on the cell alone. The published code computes those per latent or query, this one once per image.
WIDE = 3 * 256 * 256  # between four layers


def narrow(inputs: int, depth: int) -> int:
    return inputs * 16 + (depth - 1) * 16 * 16 + 16 * 3


BY_HAND = {
    LIIF: {"latent": 0, "query": 4 * (580 * 256 + WIDE + 256 * 3)},
    LMLIIF: {"latent": 578 * 208 + 208 * 208, "latent_cell": 2 * 208, "query": 4 * narrow(20, 6)},
    LTE: {
        "latent": 2 * 9 * 64 * 256,
        "query": 4 * (2 * 128 + WIDE + 256 * 3),
        "query_cell": 4 * 2 * 128,  # phase
    },
    LMLTE: {
        "latent": 2 * 9 * 64 * 128 + 2 * 64 + 128 * 288 + 288 * 288,
        "latent_cell": 2 * 64,  # phase
        "query": 4 * (2 * 8 + narrow(16, 8)),
        "query_cell": 4 * 2 * 8,  # imphase
    },
    CiaoSR: {
        "query": 4 * (580 * 256 + WIDE + 256 * 576 + 576)  # keys and their scores
        + 4 * (644 * 256 + WIDE + 256 * 640 + 640)  # values and their sum
        + (640 * 256 + WIDE + 256 * 3)
    },
    LMCiaoSR: {"query": 4 * narrow(34, 8)},
}


def tiny(decoder: torch.nn.Module | None = None) -> SRModel:
    return SRModel(EDSR(out_channels=8, blocks=1), decoder or LIIF(8, hidden=[16]))


@pytest.mark.parametrize("decoder", PAPER, ids=lambda decoder: decoder.__name__)
def test_published_decoders(decoder):
    """Each stage equals the manual count without the shared work; adding that work yields the published number."""
    model, latents, own = SRModel(EDSR(blocks=1), decoder()), 180 * 320, BY_HAND[decoder]
    per_latent, per_query = own.get("latent_cell", 0), own.get("query_cell", 0)
    once = per_latent, per_query // 4  # computed once; the four neighbours share it as well
    for scale, published in zip(SCALES, PAPER[decoder], strict=True):
        cost = count(model, (180, 320), scale=scale)
        assert cost.queries == latents * scale**2
        assert cost.render_macs == cost.queries * (own["query"] - per_query) + once[1]
        if "latent" in own:
            assert cost.latent_macs == latents * (own["latent"] - per_latent) + once[0]
        theirs = cost.decoder_macs + latents * per_latent + cost.queries * per_query - sum(once)
        # The published table shows 17.348 as 17.4, because it was first rounded to two decimals.
        assert round(round(theirs / 1e9, 2), 1) == published


@pytest.mark.parametrize(
    ("encoder", "size", "published"), [(EDSR, (180, 320), 70.2), (RDN, (180, 320), 1265.2), (SwinIR, (184, 328), 743.0)]
)
def test_published_encoders(encoder, size, published):
    assert round(count(SRModel(encoder(), Bicubic(64)), size, scale=2).encoder_macs / 1e9, 1) == published


def test_swinir_pays_for_its_padding_only():
    """180 rows are padded to 184. The published evaluation adds a whole window even if no padding is needed."""
    padded, whole = (count(SRModel(SwinIR(), Bicubic(64)), (h, 320), scale=2).encoder_macs for h in (180, 184))
    assert padded == whole


def test_fused_rendering_counts_as_plain():
    class Plain(LMLTE):
        """LM-LTE without a fused input encoding."""

        def render_input(self, code, rel, rel_cell):
            return fourier(code, rel, self.imphase(rel_cell[:, :1]))

    plain, fused = (count(SRModel(EDSR(blocks=1), d()), (12, 16), scale=3) for d in (Plain, LMLTE))
    assert plain.latent_macs == fused.latent_macs
    assert plain.render_macs == fused.render_macs + (4 - 1) * 2 * 8  # imphase for each neighbour


@pytest.mark.parametrize(("slicing", "growth"), [("linear", 4.0), ("constant", 1.5)])
def test_diif_grows_far_slower_than_the_picture(slicing, growth):
    """From x2 to x8 the number of pixels, and with it LIIF's work, grows by 16, the number of rows by 4."""
    small, large = (count(SRModel(EDSR(blocks=1), DIIF(slicing=slicing)), (12, 16), scale=s) for s in (2, 8))
    assert 1 < large.decoder_macs / small.decoder_macs < growth
    assert large.decoder_macs < count(SRModel(EDSR(blocks=1), LIIF()), (12, 16), scale=8).decoder_macs / 10


def test_by_hand_for_odd_sizes():
    cost = count(tiny(), (7, 5), scale=2.5)
    assert cost.size == (18, 12)
    assert cost.queries == 18 * 12
    assert cost.encoder_macs == 7 * 5 * 9 * (3 * 8 + 3 * 8 * 8)
    assert cost.render_macs == 18 * 12 * 4 * ((9 * 8 + 4) * 16 + 16 * 3)
    assert cost.total_macs == cost.encoder_macs + cost.render_macs
    assert count(tiny(), (7, 5), size=(18, 12)) == cost
    assert count(SRModel(Identity(), Bicubic()), (7, 5), scale=3).total_macs == 0


def test_a_self_ensemble_costs_eight_passes():
    single, averaged = (count(tiny(), (7, 5), scale=2.5, self_ensemble=several) for several in (False, True))
    for stage in ("encoder", "latent", "render"):
        assert getattr(averaged, f"{stage}_macs") == 8 * getattr(single, f"{stage}_macs")
    assert averaged.encoder_params == single.encoder_params
    assert averaged.size == single.size


def test_a_self_ensemble_is_timed_over_all_its_passes(monkeypatch):
    model, seen = tiny(), []
    prepare = model.prepare
    monkeypatch.setattr(model, "prepare", lambda lr, size: [prepare(lr, size), seen.append((*lr.shape[2:], *size))][0])
    timing = latency(model, (7, 5), scale=2, repeats=1, self_ensemble=True)
    assert seen == ([(7, 5, 14, 10)] * 4 + [(5, 7, 10, 14)] * 4) * 2  # a run for warm-up and one that counts
    assert timing.total >= timing.encoder + timing.latent + timing.render > 0


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
    Console(width=80).print(cost_table(costs, timings, "EDSR + LIIF"))
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
