"""Models from files and into files."""

from lmf.checkpoint.files import (
    FORMAT,
    PARTS,
    SOURCES,
    CheckpointError,
    build,
    find,
    from_authors,
    list_models,
    load,
    read_card,
    save,
    unpickle,
)

__all__ = [
    "FORMAT",
    "PARTS",
    "SOURCES",
    "CheckpointError",
    "build",
    "find",
    "from_authors",
    "list_models",
    "load",
    "read_card",
    "save",
    "unpickle",
]
