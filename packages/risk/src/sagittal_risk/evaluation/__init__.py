"""How good predicted risks are: discrimination, calibration, usefulness."""
