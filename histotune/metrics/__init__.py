"""Numbers from labels and probabilities: scores, intervals, calibration, operating points; opens no file."""
