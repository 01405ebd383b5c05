"""Pictures for training and evaluation: sources, degradations, samples and loaders."""

from lmf.errors import needed

with needed("train"):
    from lmf.data.augment import BatchAugment
    from lmf.data.datamodule import SRDataModule
    from lmf.data.evaluation import EvalSet
    from lmf.data.features import FeatureDataModule
    from lmf.data.folder import ImageFolder
    from lmf.data.graphics import Graphics
    from lmf.data.loader import TrainLoader
    from lmf.data.sampling import TrainSamples
    from lmf.data.settings import DataError, EvalSettings, FileSettings, Sampling
    from lmf.data.sources import Archive, Bundled, Folder, Source, split_folder

__all__ = [
    "Archive",
    "BatchAugment",
    "Bundled",
    "DataError",
    "EvalSet",
    "EvalSettings",
    "FeatureDataModule",
    "FileSettings",
    "Folder",
    "Graphics",
    "ImageFolder",
    "SRDataModule",
    "Sampling",
    "Source",
    "TrainLoader",
    "TrainSamples",
    "split_folder",
]
