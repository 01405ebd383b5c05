"""Learning from a trained model (knowledge distillation; Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmf.errors import UserError
from lmf.io import ORIENTATIONS
from lmf.model import SRModel


class Teacher:
    """A trained model whose predictions are targets besides the colours of the photographs.

    Every call shows the model one of the 8 flips and rotations, drawn with torch's generator. Over many steps a student
    that minimises its distance to the predictions therefore learns the self-ensemble of the teacher, at an eighth of
    its cost. Graphics are not shown to it, because their exact colours are known at every point.

    A teacher has no part in the student's checkpoints.

    Args:
        model: the trained model.
        weight: factor of the loss that compares with the teacher, above 0.
        queries: number of target pixels of each sample, drawn at random, that the teacher predicts.

    Raises:
        UserError: if ``weight`` or ``queries`` is not positive.
    """

    def __init__(self, model: SRModel, weight: float = 1.0, queries: int = 384) -> None:
        if weight <= 0 or queries <= 0:
            raise UserError(f"weight and queries of a teacher must be positive, got {weight} and {queries}")
        self.model = model.eval().requires_grad_(False)
        self.weight, self.queries = weight, queries

    def loss(
        self, compare: Callable[[Tensor, Tensor], Tensor], rgb: Tensor, lr: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """Compare predictions of the student with those of the teacher.

        Args:
            compare: the loss function.
            rgb: (B, Q, 3) predictions of the student at ``batch["coord"]``, in network units.
            lr: (B, 3, p, p) in network units.
            batch: a training batch, see `lmf.data.SRDataModule`.

        Returns:
            The loss times `weight`; 0 if the batch has no photograph.
        """
        photographs = ~batch["drawn"] if "drawn" in batch else torch.ones(len(rgb), dtype=torch.bool)
        if not photographs.any():
            return rgb.new_zeros(())
        chosen = torch.randperm(rgb.shape[1], device=rgb.device)[: self.queries]
        coord, cell = batch["coord"][photographs][:, chosen], batch["cell"][photographs]
        return self.weight * compare(rgb[photographs][:, chosen], self.predict(lr[photographs], coord, cell))

    @torch.no_grad()
    def predict(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Predict colours (B, Q, 3) from a random flip; see `SRModel.forward` for the arguments."""
        turn = ORIENTATIONS[int(torch.randint(len(ORIENTATIONS), ()))]
        lr = turn.apply(lr)
        coord = coord * coord.new_tensor([-1 if turn.rows else 1, -1 if turn.cols else 1])
        if turn.swap:
            coord, cell = coord.flip(2), cell.flip(1)
        rgb: Tensor = self.model.to(lr.device)(lr, coord, cell)
        return rgb.float()
