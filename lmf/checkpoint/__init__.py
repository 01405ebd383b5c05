"""Loads and saves models, including published checkpoints of other projects."""

from lmf.checkpoint.average import average
from lmf.checkpoint.building import PARTS, build, options
from lmf.checkpoint.descriptor import ModelDescriptor, SizeRequirements, load_descriptor
from lmf.checkpoint.files import (
    FORMAT,
    SOURCES,
    find,
    from_authors,
    list_models,
    load,
    read_card,
    save,
    short_name,
)
from lmf.checkpoint.pickles import CheckpointError, check_finite, is_safetensors, unpickle

__all__ = [
    "FORMAT",
    "PARTS",
    "SOURCES",
    "CheckpointError",
    "ModelDescriptor",
    "SizeRequirements",
    "average",
    "build",
    "check_finite",
    "find",
    "from_authors",
    "is_safetensors",
    "list_models",
    "load",
    "load_descriptor",
    "options",
    "read_card",
    "save",
    "short_name",
    "unpickle",
]
