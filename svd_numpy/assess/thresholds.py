"""Choosing the threshold: what pruning costs on validation data, and which threshold leaves a wanted density.

The paper's threshold is 3 for every network. It is not always the best choice: a curve over thresholds shows what
others cost. It is measured on validation rows, which are neither trained on nor reported (`Dataset.split`). Afterwards
`fit` with `TrainConfig(epochs=0, finetune_epochs=..., finetune_threshold=...)` fine-tunes the survivors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import (
    SvdTypeError,
    SvdValueError,
    check_choice,
    check_flag,
    check_number,
    check_threshold,
    check_type,
)
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.network.scoring import evaluate
from svd_numpy.network.sparsity import log_alpha, measure_sparsity

_WIDEST = 60.0  # the largest threshold (check_threshold): only weights of 0 are pruned
_GRID = np.arange(-5.0, 8.5, 0.5)  # from where weights that matter are pruned to where a higher threshold saves no more


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Error of one network on validation rows, by threshold.

    Attributes
    ----------
    thresholds : array (T,)
        Increasing.
    error, nll : array (T,)
        Share of wrong guesses (regression: squared error), nats per example, with all layers pruned.
    density : array (T,)
        Share of weights kept, in all layers together.
    layer_error, layer_density : dict of layer name -> array (T,)
        The same with only this layer pruned and the others whole (the sensitivity of Han et al. 2015, figure 6). Empty
        if it was not asked for.
    n_valid : int
        Validation rows.
    """

    thresholds: Array
    error: Array
    nll: Array
    density: Array
    layer_error: dict[str, Array]
    layer_density: dict[str, Array]
    n_valid: int

    def select(self, tolerance: float = 0.001) -> float:
        """Return the lowest threshold (the sparsest network) whose error is within `tolerance` of the smallest.

        Parameters
        ----------
        tolerance : float
            In units of `error`; with 0, this is the sparsest of the networks with the smallest error.
        """
        tolerance = check_number("tolerance", tolerance, low=0)
        return float(self.thresholds[self.error <= self.error.min() + tolerance].min())

    def __str__(self) -> str:
        lines = [f"{'threshold':>9}{'error':>10}{'nll':>9}{'kept %':>9}   on {self.n_valid:,} validation rows"]
        for row in zip(self.thresholds, self.error, self.nll, 100 * self.density, strict=True):
            lines.append("{:>9.3g}{:>10.4f}{:>9.4f}{:>9.2f}".format(*row))
        return "\n".join(lines)

    def plot(self, chosen: float | None = None) -> Any:
        """Draw error against threshold and against density, and the layers' sensitivity; a Figure."""
        from svd_numpy.plots.evaluation import error_against_threshold

        return error_against_threshold(
            self.thresholds, self.error, self.density, self.layer_error, self.layer_density, chosen
        )


def threshold_curve(
    model: Sequential, data: Dataset, thresholds: Sequence[float] | None = None, by_layer: bool = True
) -> ThresholdCurve:
    """Measure the pruned network on validation rows, at each threshold.

    Parameters
    ----------
    model : Sequential
        After variational training; it is not changed. Fine-tuning would remove the noise, so that log_alpha ranked
        weights by their size alone.
    data : Dataset
        What the model was trained on, with validation rows, as `Dataset.split` makes it.
    thresholds : sequence of float, optional
        On log_alpha; default -5 to 8 in steps of 1/2.
    by_layer : bool
        Also prune each layer alone, which takes as many measurements again for every layer.

    Raises
    ------
    SvdValueError, SvdTypeError
        For data without validation rows.
    """
    check_type("model", model, Sequential)
    x, y = _validation_rows(data)
    if thresholds is not None and (not isinstance(thresholds, Iterable) or getattr(thresholds, "shape", None) == ()):
        raise SvdTypeError(f"thresholds: got {thresholds!r}, expected numbers, such as (2.0, 3.0)")
    grid = np.unique([check_threshold("thresholds", t) for t in (_GRID if thresholds is None else thresholds)])
    if not grid.size:
        raise SvdValueError("thresholds: got none, expected at least one number, such as 3.0")
    counts = [measure_sparsity(model, t) for t in grid]
    copy = model.copy()

    def score(threshold: float) -> dict[str, float]:
        copy.threshold = threshold
        return evaluate(copy, x, y)

    scores = [score(t) for t in grid]
    layer_error, layer_density = dict[str, Array](), dict[str, Array]()
    for layer in copy.variational_layers if check_flag("by_layer", by_layer) else []:
        whole, errors = layer.theta.copy(), []
        for threshold in grid:
            layer.theta[...] = layer.pruned_theta(threshold)
            errors.append(score(_WIDEST)["error"])
            layer.theta[...] = whole
        layer_error[layer.name] = np.array(errors)
        layer_density[layer.name] = np.array([1 - count.by_layer[layer.name] for count in counts])
    return ThresholdCurve(
        grid,
        np.array([of["error"] for of in scores]),
        np.array([of["nll"] for of in scores]),
        np.array([1 - count.overall for count in counts]),
        layer_error,
        layer_density,
        len(x),
    )


def select_threshold(
    model: Sequential, data: Dataset, tolerance: float = 0.001, thresholds: Sequence[float] | None = None
) -> float:
    """Return the lowest threshold whose validation error is within `tolerance` of the best on the curve.

    Parameters
    ----------
    model, data, thresholds
        As in `threshold_curve`.
    tolerance : float
        How much more error may be paid for sparsity: a share of wrong guesses (regression: squared error).
    """
    tolerance = check_number("tolerance", tolerance, low=0)
    return threshold_curve(model, data, thresholds, by_layer=False).select(tolerance)


def threshold_for_density(model: Sequential, density: float, layer: str | None = None) -> float:
    """Return the threshold that keeps this share of the weights: those with the smallest log_alpha.

    Parameters
    ----------
    model : Sequential
    density : float
        Share of weights to keep, 0 to 1; weights of equal log_alpha are all kept.
    layer : str, optional
        Count only the weights of this layer; default: all weights together, which prunes some layers more than others.

    Returns
    -------
    float
        Half-way between the log_alpha of the last weight kept and that of the first one pruned.
    """
    check_type("model", model, Sequential)
    density = check_number("density", density, low=0, high=1)
    alphas = log_alpha(model)
    if not alphas:
        raise SvdValueError("model: got a network without variational layers, expected one, such as a VariationalDense")
    names = list(alphas) if layer is None else [check_choice("layer", layer, alphas)]
    values = np.sort(np.concatenate([alphas[name].ravel() for name in names])).astype(np.float64)
    ends = np.clip(np.concatenate([[-_WIDEST], values, [_WIDEST]]), -_WIDEST, _WIDEST)
    kept = round(density * len(values))
    return float((ends[kept] + ends[kept + 1]) / 2)


def _validation_rows(data: Any) -> tuple[Array, Array]:
    check_type("data", data, Dataset)
    if data.x_valid is None or data.y_valid is None:
        raise SvdValueError(
            f"data {data.name!r}: got no validation rows, expected some to choose a threshold on: what is chosen on "
            "the test set cannot be reported on it. Train on data.split(n_valid), and pass that"
        )
    return data.x_valid, data.y_valid
