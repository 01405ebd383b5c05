"""Rows of values as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any


def column_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all columns in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as CSV with a header. Columns that a row does not have are empty."""
    text = StringIO()
    writer = csv.DictWriter(text, column_names(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
