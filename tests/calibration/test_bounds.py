"""Tests of the range of features and of decoders that are bounded by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmf import SRModel
from lmf.calibration import feature_range
from lmf.decoders import LMLIIF, LMLTE, LMSRNO, LMCiaoSR
from lmf.encoders import EDSR

SMALL = {
    LMLIIF: {"hyper": [16]},
    LMLTE: {"hidden_dim": 8, "hyper": [16]},
    LMCiaoSR: {"hyper": [16], "prenet": [16]},
    LMSRNO: {"channels": 16, "heads": 4},
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_bounded_decoder_sees_features_in_range(kind):
    torch.manual_seed(0)
    plain, bounded = kind(8, **SMALL[kind]), kind(8, **SMALL[kind], bounded=True)
    missing = bounded.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["feat_high", "feat_low"]
    image, cell = torch.rand(2, 3, 6, 7), torch.full((2, 2), 0.1)
    feat = 4 * torch.randn(2, 8, 6, 7)

    with torch.no_grad():
        before, after = plain.latent(feat, image, cell), bounded.latent(feat, image, cell)
        assert torch.equal(before.modulation, after.modulation), "without a measured range nothing is clamped"
        low, high = torch.linspace(-2, -1, 8), torch.linspace(0.5, 2, 8)
        bounded.feat_low.copy_(low)
        bounded.feat_high.copy_(high)
        clamped = np.clip(feat.permute(0, 2, 3, 1).numpy(), low.numpy(), high.numpy())
        expected = plain.latent(torch.from_numpy(clamped).permute(0, 3, 1, 2), image, cell)
        after = bounded.latent(feat, image, cell)
    torch.testing.assert_close(after.modulation, expected.modulation)
    torch.testing.assert_close(after.code, expected.code)


@torch.no_grad()
def test_the_range_is_that_of_all_pictures():
    torch.manual_seed(0)
    model = SRModel(EDSR(8, 1), LMLIIF(8, hyper=[16])).eval()
    pictures = [torch.rand(3, 9, 12), torch.rand(3, 7, 5)]
    low, high = feature_range(model, [(picture, (20, 20)) for picture in pictures])
    values = np.concatenate([model.encoder(2 * p[None] - 1)[0].flatten(1).numpy() for p in pictures], axis=1)
    np.testing.assert_allclose(low.numpy(), values.min(1), atol=1e-6)
    np.testing.assert_allclose(high.numpy(), values.max(1), atol=1e-6)
