"""Comparison of models on the same pictures: quality, cost, tables and figures."""

from lmf.comparison.measure import Comparison, Entry, Score, check_options, compare
from lmf.comparison.tables import Table, tabulate

__all__ = ["Comparison", "Entry", "Score", "Table", "check_options", "compare", "tabulate"]
