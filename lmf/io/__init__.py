"""Pictures in files and in memory."""

from lmf.io.codecs import ImageError
from lmf.io.convert import decompose
from lmf.io.listing import list_pictures
from lmf.io.pictures import SUFFIXES, check_writable, read, read_size, write, write_bands

__all__ = [
    "SUFFIXES",
    "ImageError",
    "check_writable",
    "decompose",
    "list_pictures",
    "read",
    "read_size",
    "write",
    "write_bands",
]
