"""Experiments: a recipe (frozen numbers with their source) and a function each."""
