"""Reads, writes and converts pictures in files and in memory."""

from lmf.io.alpha import Window
from lmf.io.convert import Parts, decompose
from lmf.io.formats import (
    FORMATS,
    SUFFIXES,
    WRITABLE,
    ImageError,
    check_options,
    check_suffix,
    check_writable,
    is_lossy,
    memory_to_write,
)
from lmf.io.listing import list_pictures
from lmf.io.metadata import Metadata
from lmf.io.orientation import ORIENTATIONS, Orientation
from lmf.io.pictures import (
    MAX_PIXELS,
    Header,
    Picture,
    read,
    read_header,
    read_pages,
    read_size,
    write,
    write_pages,
)
from lmf.io.tiff_writer import Page

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "ORIENTATIONS",
    "SUFFIXES",
    "WRITABLE",
    "Header",
    "ImageError",
    "Metadata",
    "Orientation",
    "Page",
    "Parts",
    "Picture",
    "Window",
    "check_options",
    "check_suffix",
    "check_writable",
    "decompose",
    "is_lossy",
    "list_pictures",
    "memory_to_write",
    "read",
    "read_header",
    "read_pages",
    "read_size",
    "write",
    "write_pages",
]
