"""Sweeps: many runs of one experiment with varied numbers, on this machine or on a cluster.

`points.py` lists the runs, `task.py` does one of them, `engines.py` says where; `sweeping.py` is the function around
them, `watch.py` shows where they stand, `result.py` makes the table and the picture.
"""

from svd_numpy.experiments.sweep.points import Between
from svd_numpy.experiments.sweep.result import SweepResult
from svd_numpy.experiments.sweep.sweeping import sweep

__all__ = ["Between", "SweepResult", "sweep"]
