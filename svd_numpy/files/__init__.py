"""What goes to disk: atomic writes, safe arrays, checkpoints, the run log."""
