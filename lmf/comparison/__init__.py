"""Comparison of models on the same pictures: quality, cost, tables and figures."""

from lmf.comparison.measure import Comparison, Entry, Score, compare
from lmf.comparison.tables import Table, tabulate

__all__ = ["Comparison", "Entry", "Score", "Table", "compare", "tabulate"]
