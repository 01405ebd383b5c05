"""Tests of the experiments of Thera: the published models, their recipe and their cost."""

import pytest
import torch

from lmf.app.tasks.common import build
from lmf.benchmark.cost import count

PARAMETERS = {"air": 8_385, "plus": 1_413_153, "pro": 4_630_699}
TOTALS = {"air": 1_228_801, "plus": 2_633_569, "pro": 5_851_115}
SCALES = (2, 3, 4, 6, 8, 12)
GMACS = {  # of the decoder for 320 x 180; once per LR pixel all of it but the field
    "air": (0.5, 0.6, 0.6, 0.8, 1.1, 1.8),
    "plus": (81.2, 81.9, 83.0, 85.9, 90.0, 101.8),
    "pro": (287.9, 288.6, 289.7, 292.6, 296.7, 308.5),
}
TAILS = {"air": 0, "plus": 1_137_312, "pro": 4_751_280}  # multiply-adds of an LR pixel
HYPERNETWORKS = {"air": 64 * 128, "plus": 128 * 2048, "pro": 64 * 2048}


@pytest.mark.parametrize("tail", PARAMETERS)
def test_is_the_published_model_and_recipe(compose, tail):
    config = compose(f"experiment=thera_{tail}_edsr", "data=div2k", "schedule=paper")
    s = config.schedule
    assert config.name == f"thera_{tail}_edsr"
    assert (s.epochs * s.iterations, s.batch_size, s.patch, s.queries) == (5_000_000, 16, 48, 2304)
    assert (s.min_scale, s.max_scale) == (1.2, 4)
    assert (s.optimizer._target_, s.optimizer.lr, s.optimizer.weight_decay) == ("torch.optim.AdamW", 1e-4, 1e-4)
    assert (s.scheduler._target_.rpartition(".")[2], s.scheduler.T_max) == ("CosineAnnealingLR", s.epochs)
    # The loss in network units is twice that of the paper, with all its gradients.
    assert config.decoder.variation / 2 == 1e-4
    assert config.trainer.gradient_clip_val / 2 == 10
    with torch.device("meta"):
        model = build(config)
    assert sum(p.numel() for p in model.decoder.parameters()) == PARAMETERS[tail]
    assert sum(p.numel() for p in model.parameters()) == TOTALS[tail]
    assert model.decoder.clip_scale is None


def test_quick_schedules_are_as_for_other_methods(compose):
    config = compose("experiment=thera_air_edsr")
    assert config.trainer.gradient_clip_val is None
    assert config.schedule.optimizer._target_ == "torch.optim.Adam"


@pytest.mark.parametrize("tail", PARAMETERS)
def test_costs_what_the_paper_says(compose, tail):
    model = build(compose(f"experiment=thera_{tail}_edsr"))
    padded = 184 * 320 if tail == "pro" else 180 * 320
    for scale, published in zip(SCALES, GMACS[tail], strict=True):
        cost = count(model, (180, 320), scale=scale)
        assert cost.latent_macs == padded * TAILS[tail] + 180 * 320 * HYPERNETWORKS[tail]
        assert cost.render_macs == cost.queries * 5 * (32 if tail == "air" else 512)
        assert round(cost.decoder_macs / 1e9, 1) == published
