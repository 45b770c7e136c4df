"""Pictures of Sparse Variational Dropout, drawn from plain data: epoch records and arrays."""

from svd_numpy.plots.network import feature_maps, filters, live_units, weight_matrix
from svd_numpy.plots.panels import COLOURS, STYLE
from svd_numpy.plots.sweeps import sweep_points
from svd_numpy.plots.text import gate_map, loss_curves, shares_left, words_left
from svd_numpy.plots.training import (
    compression_accounts,
    error_against_compression,
    living_weights,
    log_alpha_histogram,
    pixel_importance,
    receptive_fields,
    summary_figure,
    training_curves,
)

__all__ = [
    "COLOURS",
    "STYLE",
    "compression_accounts",
    "error_against_compression",
    "feature_maps",
    "filters",
    "gate_map",
    "live_units",
    "living_weights",
    "log_alpha_histogram",
    "loss_curves",
    "pixel_importance",
    "receptive_fields",
    "shares_left",
    "summary_figure",
    "sweep_points",
    "training_curves",
    "weight_matrix",
    "words_left",
]
