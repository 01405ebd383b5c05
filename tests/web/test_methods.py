import numpy as np
import pytest
import torch

import lmf
from lmf import SRModel, checkpoint
from lmf.encoders import Identity
from lmf.errors import UserError
from lmf.web.methods import Nearest, methods

CPU = torch.device("cpu")


def test_nearest_repeats_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    made = SRModel(Identity(), Nearest()).upscale(picture, scale=4)
    np.testing.assert_array_equal(made, picture.repeat(4, axis=0).repeat(4, axis=1))


def test_nearest_on_a_grid_is_nearest_at_points():
    enlargement = SRModel(Identity(), Nearest()).prepare(torch.rand(1, 3, 13, 9), (57, 31)).crop((4, 50), (3, 31))
    latent = enlargement.latent()
    points = Nearest().query(latent, enlargement.target.coord()[None], enlargement.cell)
    assert torch.equal(enlargement.render(latent), points.transpose(1, 2).reshape(1, 3, 46, 28))


def test_the_methods_have_names(tmp_path):
    lmf.save(lmf.load("lm_liif_edsr"), tmp_path / "mine.safetensors")
    found = methods(["lm_lte_edsr", tmp_path / "mine.safetensors"], CPU)
    assert list(found) == ["lm_lte_edsr", "mine", "bicubic", "nearest"]
    assert [method.has_tables for method in found.values()] == [True, False, False, False]


@pytest.mark.parametrize(
    ("sources", "message"),
    [(["lm_liif_edsr", "lm_liif_edsr"], "another model is called"), (["nothing"], "no such checkpoint")],
)
def test_what_cannot_be_offered(sources, message):
    with pytest.raises(UserError, match=message):
        methods(sources, CPU)


def test_a_view_that_costs_the_whole_picture_is_refused(tmp_path):
    model = checkpoint.build(
        {
            "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 1},
            "decoder": {"_target_": "lmf.decoders.SRNO", "in_channels": 8, "width": 16, "heads": 4},
        }
    )
    lmf.save(model, tmp_path / "srno.safetensors")
    with pytest.raises(UserError, match="srno: a view would take as long as the whole picture"):
        methods([tmp_path / "srno.safetensors"], CPU)["srno"].warm_up()


def test_tables_of_other_weights_are_not_used(tmp_path):
    lmf.save(lmf.load("lm_lte_edsr"), tmp_path / "mine.safetensors")
    tables = lmf.checkpoint.find("lm_liif_edsr").with_suffix(".cmsr.yaml")
    (tmp_path / "mine.cmsr.yaml").write_text(tables.read_text())
    assert methods([tmp_path / "mine.safetensors"], CPU)["mine"].tables is None


def test_multiply_adds_per_pixel():
    """LM-LIIF: eq. 6 of the paper for the renderer; its hypernetwork reads 3 x 3 features."""
    rates = methods(["lm_liif_edsr"], CPU)["lm_liif_edsr"].rates
    assert rates.render == pytest.approx(4 * (20 * 16 + 5 * 16 * 16 + 16 * 3), rel=0.02)
    assert rates.latent == pytest.approx((9 * 64) * 208 + 208 * (2 * 16 * 6 + 16), rel=0.02)
    assert rates.encoder == pytest.approx(9 * (3 * 64 + 33 * 64 * 64), rel=0.001)
