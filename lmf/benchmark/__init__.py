"""Measurement of the cost of models: MACs, time and memory, compared with the limits of the machine."""
