"""Training: configuration, one run, and the loop around it."""
