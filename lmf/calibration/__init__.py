"""Calibration of scale-to-modulation tables for CMSR on pictures."""
