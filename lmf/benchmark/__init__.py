"""Measurement of the cost of models: MACs, time and memory, compared with the limits of the machine."""

from lmf.benchmark.cost import Cost, Latency, count, latency
from lmf.benchmark.roofline import measure_peak
from lmf.benchmark.runner import Case, Row, measure, plan

__all__ = ["Case", "Cost", "Latency", "Row", "count", "latency", "measure", "measure_peak", "plan"]
