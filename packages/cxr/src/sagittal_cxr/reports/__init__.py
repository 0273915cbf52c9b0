"""Radiology reports: sections, labels by rule, pseudo-reports from labels."""
