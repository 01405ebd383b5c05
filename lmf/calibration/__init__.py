"""Calibration of scale-to-modulation tables for CMSR on pictures."""

from lmf.calibration.bounds import feature_range
from lmf.calibration.estimators import Errors, Estimator, Pooled, Released
from lmf.calibration.loop import Pictures, calibrate, overview

__all__ = ["Errors", "Estimator", "Pictures", "Pooled", "Released", "calibrate", "feature_range", "overview"]
