"""The LightningModule, which defines loss, optimisation, evaluation and logging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from lmf.checkpoint import FORMAT
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.errors import UserError
from lmf.io.colour import from_network, to_network
from lmf.metrics import PSNR, SSIM, ColourShare, Protocol, RawMax
from lmf.model import SRModel
from lmf.training.distillation import Teacher
from lmf.training.results import Result
from lmf.training.resume import apply_options

Batch = dict[str, Any]

CHECK_EVERY = 20  # steps between checks for non-finite values, each of which waits for the device


class SRModule(L.LightningModule):
    """Trains and evaluates an `SRModel`.

    Batches hold pictures in [0, 1], see `lmf.data.SRDataModule`. They are converted to [-1, 1] for the network.

    Args:
        model: the model.
        optimizer: creates an optimiser from parameters; only needed for training.
        scheduler: creates a learning-rate schedule from the optimiser; None keeps the rate constant.
        interval: when the schedule advances, after every ``"epoch"`` or every ``"step"``.
        seed: seeds every training step together with the batch number and the rank, so that a resumed run equals an
            uninterrupted one.
        baseline: whether to measure bicubic interpolation on every set as well.
        loss: compares predictions and targets (B, Q, 3) element by element, in network units.
        teacher: a trained model to learn from besides the pictures, see `lmf.training.distillation`.
        self_ensemble: whether to evaluate the mean over the eight flips and rotations, see `SRModel.render`.

    Attributes:
        results: list of `Result`, one per set of the latest validation or test.
    """

    def __init__(
        self,
        model: SRModel,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        interval: str = "epoch",
        seed: int = 0,
        baseline: bool = True,
        loss: Callable[[Tensor, Tensor], Tensor] = F.l1_loss,
        teacher: Teacher | None = None,
        self_ensemble: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.seed = seed
        self.loss = loss
        self.teacher = teacher
        self.self_ensemble = self_ensemble
        self.bicubic = SRModel(Identity(), Bicubic()) if baseline else None
        self.losses_finite = torch.tensor(True)  # of all steps; a tensor, so that no step waits for the device
        self.results: list[Result] = []
        self.metrics = nn.ModuleList()  # per set: the metrics of the model, then those of bicubic interpolation

    def setup(self, stage: str) -> None:
        """Create the metrics of the validation sets, or of the test sets if ``stage`` is ``"test"``."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sets = data.test_sets if stage == "test" else data.val_sets
        prefixes = ["", "bicubic_"] if self.bicubic is not None else [""]
        self.metrics = nn.ModuleList(
            nn.ModuleList(set_metrics(s.protocol, s.scale, prefix, s.faults) for prefix in prefixes) for s in sets
        )
        self.results = [Result(s.dataset, s.scale, 0, s.protocol, self_ensemble=self.self_ensemble) for s in sets]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step."""
        torch.manual_seed(hash((self.seed, batch["number"], self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, in network units.

        Args:
            batch: see `lmf.data.SRDataModule`, optionally with encoder features ``"feat"`` (B, C, p, p).
            batch_idx: number of the batch in the epoch.
        """
        feat = batch["feat"].float() if "feat" in batch else None
        lr, target = to_network(batch["lr"]), to_network(batch["target"])
        latent, coord, cell = self.model.encode(lr, batch["coord"], batch["cell"], feat)
        rgb = self.model.decoder.query(latent, coord, cell).float()  # (B, Q, 3)
        loss = self.loss(rgb, target)
        penalty = self.model.decoder.penalty(latent, coord)
        if penalty is not None:
            loss = loss + penalty
        if self.teacher is not None:
            loss = loss + self.teacher.loss(self.loss, rgb, lr, batch)
        self.losses_finite = self.losses_finite.to(loss.device) & loss.detach().isfinite()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(rgb))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Check for non-finite values every `CHECK_EVERY` batches."""
        if batch_idx % CHECK_EVERY == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Stop training on all ranks if a loss or a weight on any rank is NaN or infinite.

        Raises:
            UserError: if one is.
        """
        finite = torch.stack(
            [self.losses_finite.to(self.device), *(p.isfinite().all() for p in self.parameters())]
        ).all()
        if self.trainer.strategy.reduce_boolean_decision(not finite, all=False):
            raise UserError(
                f"the loss or weights are not finite after step {self.trainer.global_step}, training stops; the "
                "checkpoints saved before are intact: resume with a lower learning rate or with gradient clipping"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Measure a picture of a validation set; see `test_step`."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Enlarge and measure a picture.

        Args:
            batch: ``"lr"`` (1, 3, h, w) and ``"hr"`` (1, 3, H, W) in [0, 1]; empty if only other ranks have pictures
                left.
            batch_idx: number of the picture.
            dataloader_idx: number of the set.

        Returns:
            ``{"sr": (1, 3, H, W)}`` in [0, 1], and the metrics of this picture as ``"values"``; None for an empty
            batch.
        """
        if not batch:
            return None
        metrics = cast(nn.ModuleList, self.metrics[dataloader_idx])
        baseline = {} if self.bicubic is None else self.measure(self.bicubic, metrics[1], batch)["values"]
        measured = self.measure(self.model, metrics[0], batch, self.self_ensemble)
        return {"sr": measured["sr"], "values": measured["values"] | baseline}

    def measure(self, model: SRModel, metrics: nn.Module, batch: Batch, self_ensemble: bool = False) -> dict[str, Any]:
        """Enlarge the picture of ``batch`` with ``model`` and update ``metrics``.

        Returns:
            ``{"sr": (1, 3, H, W)}`` in [0, 1], and the metrics of this picture as ``"values"``.
        """
        hr = batch["hr"]
        sr = model.render(to_network(batch["lr"]), hr.shape[-2:], self_ensemble=self_ensemble)
        values = cast(MetricCollection, metrics)(sr / 2 + 0.5, hr)  # not clamped, which the measures of faults need
        return {"sr": from_network(sr), "values": {name: value.item() for name, value in values.items()}}

    def on_validation_epoch_start(self) -> None:
        """Clear the results of the previous validation."""
        self.results = [replace(row, values={}) for row in self.results]

    def on_test_epoch_start(self) -> None:
        """Clear the results of the previous test."""
        self.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        """Complete and log the results."""
        self.complete("val")

    def on_test_epoch_end(self) -> None:
        """Complete and log the results."""
        self.complete("test")

    def complete(self, stage: str) -> None:
        """Add the metrics to ``results``, and log all values and the means over the sets.

        Callbacks add their values earlier. The logged names are ``val/set5_x4/psnr``, ``val/set5_x4/bicubic_psnr`` and
        so on, and ``val/psnr`` and ``val/bicubic_psnr`` for the means.

        Args:
            stage: ``"val"`` or ``"test"``.
        """
        for row, metrics in zip(self.results, self.metrics, strict=True):
            collections = [cast(MetricCollection, m) for m in cast(nn.ModuleList, metrics)]
            count = cast(PSNR, collections[0]["psnr"]).count.clone()  # reduced in place
            row.images = int(self.trainer.strategy.reduce(count, reduce_op="sum"))
            measured = {name: value.item() for m in collections for name, value in m.compute().items()}
            row.values = measured | row.values
            for m in collections:
                m.reset()
        logged = {f"{stage}/{row.name}/{name}": value for row in self.results for name, value in row.values.items()}
        for name in ("psnr", "bicubic_psnr"):
            values = [row.values[name] for row in self.results if name in row.values]
            if values:
                logged[f"{stage}/{name}"] = sum(values) / len(values)
        self.log_dict(logged, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Create the optimiser of all trainable parameters and the schedule, in Lightning's form."""
        if self.optimizer is None:
            return None
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": self.interval},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Apply the optimiser and schedule options of this run to the state of a resumed run."""
        if self._trainer is not None and self._trainer.state.fn == "fit" and self.optimizer is not None:
            made = self.configure_optimizers()
            optimizer, scheduler = (
                (made["optimizer"], made["lr_scheduler"]["scheduler"]) if isinstance(made, dict) else (made, None)
            )
            apply_options(checkpoint, optimizer, scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the config of the model to a checkpoint.

        Raises:
            UserError: if a loss or a weight is NaN or infinite.
        """
        self.check_finite()
        checkpoint["lmf"] = {"format": FORMAT, "config": self.model.config}


def set_metrics(protocol: Protocol, scale: float, prefix: str, faults: bool = False) -> MetricCollection:
    """Create the metrics of an evaluation set, named ``PREFIXpsnr`` and ``PREFIXssim``.

    With ``faults``, there are also ``PREFIXcolour_share`` and ``PREFIXraw_max``.
    """
    metrics: dict[str, Metric | MetricCollection] = {"psnr": PSNR(protocol, scale), "ssim": SSIM(protocol, scale)}
    if faults:
        metrics |= {"colour_share": ColourShare(), "raw_max": RawMax()}
    return MetricCollection(metrics, compute_groups=False, prefix=prefix or None)
