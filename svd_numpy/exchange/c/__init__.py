"""A compact network as C: its steps, their integers and the NumPy twin, the plan of memory, the code."""

from svd_numpy.exchange.c.export import export_c
from svd_numpy.exchange.c.integers import IntegerModel
from svd_numpy.exchange.c.rounding import to_integers

__all__ = ["IntegerModel", "export_c", "to_integers"]
