"""Learning from a trained model (knowledge distillation; Hinton et al., 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from lmf.errors import UserError
from lmf.model import SRModel


class Teacher:
    """A trained model whose predictions serve as targets besides the colours of the pictures.

    Every call shows the model one of the 8 flips and rotations, drawn with torch's generator. Over many steps a student
    that minimises its distance to the predictions therefore learns the self-ensemble of the teacher, at an eighth of
    its cost.

    A teacher has no part in the student's checkpoints.

    Args:
        model: the trained model.
        weight: share of the loss that compares with the teacher, above 0 and at most 1.

    Raises:
        UserError: if ``weight`` is out of range.
    """

    def __init__(self, model: SRModel, weight: float = 0.5) -> None:
        if not 0 < weight <= 1:
            raise UserError(f"the weight of a teacher must be above 0 and at most 1, got {weight}")
        self.model = model.eval().requires_grad_(False)
        self.weight = weight

    @torch.no_grad()
    def __call__(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Predict colours (B, Q, 3) in network units at ``coord``; see `SRModel.forward` for the arguments."""
        vertical, horizontal, transposed = torch.randint(2, (3,)).bool().tolist()
        axes = [axis for axis, flipped in ((2, vertical), (3, horizontal)) if flipped]
        lr = lr.flip(axes)
        coord = coord * coord.new_tensor([-1 if vertical else 1, -1 if horizontal else 1])
        if transposed:
            lr, coord, cell = lr.mT, coord.flip(2), cell.flip(1)
        rgb: Tensor = self.model.to(lr.device)(lr, coord, cell)
        return rgb.float()
