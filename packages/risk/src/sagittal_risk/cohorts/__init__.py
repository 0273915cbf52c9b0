"""Public cohorts and their published protocols."""
