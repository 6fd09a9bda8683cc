"""Members' predictions together: strategies, cross-fitting, calibration, diversity."""
