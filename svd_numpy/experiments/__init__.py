"""Experiments: each is a recipe (frozen numbers with their source) and a function."""
