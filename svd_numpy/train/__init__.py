"""Training: configuration, one run, the loop around it."""
