"""Experiments: each one is a recipe (fixed numbers with their source) and a function."""
