from dataclasses import dataclass, field

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lmf import SRModel
from lmf.decoders import LIIF
from lmf.encoders import EDSR
from lmf.training.results import Result


@dataclass
class EvalSet:
    dataset: str
    scale: float
    protocol: str = "raw"
    faults: bool = False
    items: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"{self.dataset}_x{self.scale:g}"
        random = torch.Generator().manual_seed(0)
        h, w = round(24 * self.scale), round(20 * self.scale)
        for name in ("baby", "bird", "head"):
            lr = torch.rand(3, 24, 20, generator=random)
            self.items.append({"lr": lr, "hr": torch.rand(3, h, w, generator=random), "name": name})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict:
        return self.items[i]


def one(items: list[dict]) -> dict:
    (item,) = items
    return {"lr": item["lr"][None], "hr": item["hr"][None], "name": item["name"]}


class Data(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.val_sets = [EvalSet("set5", 2), EvalSet("set5", 2.5)]
        self.test_sets = self.val_sets

    def train_dataloader(self) -> DataLoader:
        return DataLoader([{"lr": lr} for lr in torch.rand(4, 3, 8, 8)], batch_size=2)

    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(s, collate_fn=one) for s in self.val_sets]

    def test_dataloader(self) -> list[DataLoader]:
        return self.val_dataloader()


class Module(L.LightningModule):
    """A minimal module, in which ``scores`` are the val/psnr of successive validations."""

    def __init__(self, scores: tuple[float, ...] = (20.0, 30.0, 25.0, 26.0)) -> None:
        super().__init__()
        self.model = SRModel(EDSR(out_channels=8, blocks=1), LIIF(8, hidden=[16]))
        self.scores = iter(scores)
        self.results: list[Result] = []
        self.self_ensemble = False

    def setup(self, stage: str) -> None:
        self.results = [Result(s.dataset, s.scale, 3, s.protocol) for s in self.trainer.datamodule.test_sets]

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        lr = batch["lr"]
        coord = torch.rand(len(lr), 5, 2) * 2 - 1
        return self.model(lr, coord, torch.full((len(lr), 2), 0.1)).square().mean()

    def validation_step(self, batch: dict, batch_idx: int, dataloader_idx: int = 0) -> dict:
        size = batch["hr"].shape[-2:]
        return {"sr": (self.model.render(batch["lr"] * 2 - 1, size) / 2 + 0.5).clamp(0, 1)}

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.log("val/psnr", next(self.scores))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def module() -> Module:
    torch.manual_seed(0)
    return Module()


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks: L.Callback, **options) -> L.Trainer:
        defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "num_sanity_val_steps": 0}
        defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        return L.Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **(defaults | options))

    return make
