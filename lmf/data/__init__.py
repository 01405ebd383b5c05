"""Pictures for training and measuring: sources, degradations, samples, loaders."""

from lmf.errors import needed

with needed("train"):
    from lmf.data.augment import BatchAugment
    from lmf.data.datamodule import SRDataModule, from_folder
    from lmf.data.evaluation import EvalSet
    from lmf.data.folder import DataError, ImageFolder
    from lmf.data.loader import TrainLoader
    from lmf.data.sampling import TrainSamples
    from lmf.data.sources import Archive, Bundled, Folder, Source

__all__ = [
    "Archive",
    "BatchAugment",
    "Bundled",
    "DataError",
    "EvalSet",
    "Folder",
    "ImageFolder",
    "SRDataModule",
    "Source",
    "TrainLoader",
    "TrainSamples",
    "from_folder",
]
