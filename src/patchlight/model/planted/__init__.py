"""Models whose truth is known, because it was put there: for calibration, tests and teaching."""
