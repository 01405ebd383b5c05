"""Lightning callbacks for the terminal, costs, pictures, tables, health, renderers and checkpoints."""

from lmf.training.callbacks.checkpoint_io import AtomicCheckpointIO
from lmf.training.callbacks.cmsr import CMSRCallback
from lmf.training.callbacks.cost import CostCallback
from lmf.training.callbacks.health import HealthCallback
from lmf.training.callbacks.images import ImagesCallback
from lmf.training.callbacks.pictures import PicturesCallback
from lmf.training.callbacks.progress import ProgressBar, ValidationCallback
from lmf.training.callbacks.records import RecordsCallback
from lmf.training.callbacks.resume import ResumeCheckpoint

__all__ = [
    "AtomicCheckpointIO",
    "CMSRCallback",
    "CostCallback",
    "HealthCallback",
    "ImagesCallback",
    "PicturesCallback",
    "ProgressBar",
    "RecordsCallback",
    "ResumeCheckpoint",
    "ValidationCallback",
]
