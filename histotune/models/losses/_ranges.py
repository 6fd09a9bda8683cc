"""Ranges that several losses share."""

from __future__ import annotations

from histotune.core.parameters import Interval

BETA = Interval(0, 1)  # of the class weights: 0 is none, 1 the inverse frequency
GAMMA = Interval(0)
SCALE = Interval(0, open_low=True)
INFERENCE_SCALE = Interval(0)
