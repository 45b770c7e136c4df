"""Whole algorithms in plain NumPy, one file each, to be read from top to bottom; `sparse_vd.py` first.

Its names are also those of this package: `micro.kl_divergence` is `micro.sparse_vd.kl_divergence`.
"""

from svd_numpy.micro.sparse_vd import (
    K1,
    K2,
    K3,
    THRESHOLD,
    Array,
    Layer,
    Net,
    adam_step,
    backward,
    cross_entropy,
    forward,
    kept,
    kl_divergence,
    load_problem,
    loss_and_gradients,
    main,
    make_net,
    normals,
    predict,
    zeros_like,
)

__all__ = [
    "K1",
    "K2",
    "K3",
    "THRESHOLD",
    "Array",
    "Layer",
    "Net",
    "adam_step",
    "backward",
    "cross_entropy",
    "forward",
    "kept",
    "kl_divergence",
    "load_problem",
    "loss_and_gradients",
    "main",
    "make_net",
    "normals",
    "predict",
    "zeros_like",
]
