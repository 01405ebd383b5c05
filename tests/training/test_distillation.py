"""Tests of learning from a teacher."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmf import SRModel
from lmf.app import pipeline
from lmf.decoders import LIIF
from lmf.encoders import EDSR
from lmf.errors import UserError
from lmf.training.distillation import Teacher

from ..conftest import TINY


@pytest.fixture
def model() -> SRModel:
    torch.manual_seed(0)
    return SRModel(EDSR(8, 1), LIIF(8, hidden=[16])).double().eval()


def dense(model: SRModel, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (h, w, 3) to (H, W, 3)."""
    lr = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return model.render(lr, size)[0].permute(1, 2, 0).numpy()


def test_the_teacher_predicts_from_all_eight_flips(model):
    """The predictions are those of flipping the picture, enlarging it, and flipping the result back."""
    picture = np.random.default_rng(0).uniform(-1, 1, (6, 9, 3))
    size = (15, 20)
    y, x = np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in size), indexing="ij")
    coord = torch.from_numpy(np.stack([y, x], -1).reshape(1, -1, 2))
    cell = torch.tensor([[2 / size[0], 2 / size[1]]], dtype=torch.float64)
    lr = torch.from_numpy(picture).permute(2, 0, 1)[None]

    expected = []
    for vertical, horizontal, transposed in itertools.product([False, True], repeat=3):
        seen = picture[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        if transposed:
            seen = seen.swapaxes(0, 1)
        large = dense(model, seen, size[::-1] if transposed else size)
        large = large.swapaxes(0, 1) if transposed else large
        expected.append(large[:: -1 if vertical else 1, :: -1 if horizontal else 1].reshape(-1, 3))
    assert np.abs(expected[0] - expected[3]).max() > 1e-3

    teacher, found = Teacher(model), set()
    for seed in range(60):
        torch.manual_seed(seed)
        rgb = teacher.predict(lr, coord, cell)[0].numpy()
        distances = [np.abs(rgb - e).max() for e in expected]
        assert min(distances) < 1e-5
        found.add(int(np.argmin(distances)))
    assert found == set(range(8))


def test_the_loss_is_that_of_photographs_alone(model):
    lr = torch.rand(4, 3, 6, 6, dtype=torch.float64) * 2 - 1
    batch = {
        "coord": torch.rand(4, 10, 2, dtype=torch.float64) * 2 - 1,
        "cell": torch.full((4, 2), 0.1, dtype=torch.float64),
        "drawn": torch.tensor([False, True, False, True]),
    }
    rgb = torch.rand(4, 10, 3)
    teacher = Teacher(model, weight=0.5, queries=10)
    torch.manual_seed(1)
    loss = teacher.loss(F.l1_loss, rgb, lr, batch)
    torch.manual_seed(1)
    order = torch.randperm(10)
    taught = teacher.predict(lr[[0, 2]], batch["coord"][[0, 2]][:, order], batch["cell"][[0, 2]])
    assert loss.item() == pytest.approx(0.5 * (rgb[[0, 2]][:, order] - taught).abs().mean().item())
    assert teacher.loss(F.l1_loss, rgb, lr, batch | {"drawn": torch.ones(4, dtype=torch.bool)}) == 0


@pytest.mark.parametrize("options", [{"weight": 0}, {"queries": 0}, {"weight": -1.0}])
def test_options_are_positive(model, options):
    with pytest.raises(UserError, match="must be positive"):
        Teacher(model, **options)


def test_a_run_learns_from_a_teacher_and_does_not_keep_it(compose, tmp_path):
    options = (*TINY, "schedule.epochs=1", "schedule.patch=16", "schedule.graphics=0.5")
    pipeline.run(compose(*options, output=tmp_path / "alone"))
    teacher = f"+schedule.teacher={{model: '{tmp_path / 'alone'}', weight: 1, queries: 8}}"
    pipeline.run(compose(*options, teacher, output=tmp_path / "taught"))

    def weights(name):
        return torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    alone, taught = weights("alone"), weights("taught")
    assert alone.keys() == taught.keys()
    assert any(not torch.equal(alone[key], taught[key]) for key in alone)


def test_cached_crops_and_a_teacher_exclude_each_other(compose, tmp_path, caplog):
    options = ("schedule=decoder", "init_from=lm_liif_edsr", "+schedule.teacher.model=lm_liif_edsr")
    with pytest.raises(SystemExit):
        pipeline.run(compose(*options, output=tmp_path / "bad"))
    assert "schedule.cached_crops=null or schedule.teacher=null" in caplog.text
