"""Judging a finished network: thresholds and uncertainty."""
