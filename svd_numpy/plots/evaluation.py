"""Pictures of a finished network: the cost of its threshold, its calibration, its uncertainty.

As in `svd_numpy.plots`, every function takes plain data and returns a figure of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from svd_numpy.plots.panels import COLOURS, WIDTH, Array, finish, layer_style, log_scale, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def error_against_threshold(
    thresholds: Array,
    error: Array,
    density: Array,
    layer_error: Mapping[str, Array],
    layer_density: Mapping[str, Array],
    chosen: float | None = None,
) -> Figure:
    """Draw the error against the threshold and against the share of weights kept; a third panel has each layer alone.

    Parameters
    ----------
    thresholds, error, density : array (T,)
        Thresholds on log_alpha; error and share of weights kept with all layers pruned at each.
    layer_error, layer_density : mapping {layer name: array (T,)}
        The same with only this layer pruned; if empty, the third panel is left out.
    chosen : float, optional
        A threshold to mark.

    Returns
    -------
    Figure
    """
    with style():
        count = 3 if layer_error else 2
        figure = new_figure(WIDTH * (1.3 if count == 3 else 1.0), 3.4)
        left, right, *more = figure.subplots(1, count, sharey=True)
        left.plot(thresholds, error, color=COLOURS["test"], marker="o", markersize=3)
        left.set(title="All layers", xlabel=r"threshold on $\log\,\alpha$", ylabel="validation error")
        right.plot(100 * density, error, color=COLOURS["test"], marker="o", markersize=3)
        right.set(title="All layers", xlabel="weights kept (%)")
        if chosen is not None:
            kept = 100 * density[np.argmin(np.abs(thresholds - chosen))]
            for ax, at, label in ((left, chosen, f"chosen: {chosen:.3g}"), (right, kept, f"{kept:.2g} % kept")):
                ax.axvline(at, color=COLOURS["ink"], linestyle="--", linewidth=1.2, label=label)
                ax.legend()
        for ax in more:
            for index, name in enumerate(layer_error):
                ax.plot(100 * layer_density[name], layer_error[name], label=name, **layer_style(index))
            ax.set(title="One layer, the others whole", xlabel="its weights kept (%)")
            ax.legend()
        for ax, shares in zip((right, *more), ([density], layer_density.values()), strict=False):
            _share_axis(ax, np.concatenate([100 * share for share in shares]))
        errors = np.concatenate([error, *layer_error.values()])
        if errors.min() > 0:
            log_scale(left, errors)
        return finish(figure, "")


def _share_axis(ax: Axes, percent: Array) -> None:
    """Log axis for percentages, with plain numbers; 2 and 5 are labelled too if there is room."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    positive = percent[percent > 0]
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    if positive.size and positive.max() < 200 * positive.min():
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda tick, _: f"{tick:g}" if f"{tick:e}"[0] in "25" else ""))
    else:
        ax.xaxis.set_minor_formatter(NullFormatter())


def uncertainty_figure(
    reliability: Mapping[str, tuple[Array, Array, Array]],
    entropies: Mapping[str, tuple[Array, Array]],
    inside: str,
    outside: str,
) -> Figure:
    """Draw reliability above and predictive entropy of familiar and foreign inputs below, one column per method.

    Parameters
    ----------
    reliability : mapping {title of a column: (edges (bins + 1,), confidence (bins,), accuracy (bins,))}
        Bins of the confidence, the mean confidence in each, and the share that is right; NaN in an empty bin.
    entropies : mapping {the same title: (array (B,), array (B',))}
        In nats, of familiar and of foreign inputs.
    inside, outside : str
        Names of the familiar and of the foreign inputs.

    Returns
    -------
    Figure
    """
    with style():
        figure = new_figure(WIDTH * 1.2, 5.6)
        axes = figure.subplots(2, len(reliability), sharey="row", squeeze=False)
        top = max(float(values.max()) for pair in entropies.values() for values in pair)
        edges = np.linspace(0, max(top, 1e-3), 41)
        for column, (title, (bins, confidence, accuracy)) in enumerate(reliability.items()):
            upper, lower = axes[:, column]
            filled = ~np.isnan(accuracy)
            upper.bar(
                bins[:-1][filled], accuracy[filled], np.diff(bins)[filled], align="edge", color=COLOURS["pruned"],
                edgecolor="white", label="accuracy in the bin",
            )  # fmt: skip
            upper.plot([0, 1], [0, 1], "--", color=COLOURS["ink"], linewidth=1.0)
            upper.plot(
                confidence[filled], accuracy[filled], "o", color=COLOURS["test"], markersize=4,
                label="at its mean confidence",
            )  # fmt: skip
            upper.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
            for values, name, colour in zip(entropies[title], (inside, outside), ("train", "test"), strict=True):
                share = np.full(len(values), 1 / len(values))
                lower.hist(values, edges, weights=share, color=COLOURS[colour], alpha=0.6, label=name)
            lower.set(xlabel="predictive entropy (nats)", yscale="log")
        axes[0, 0].set_ylabel("share correct")
        axes[1, 0].set_ylabel("share of inputs")
        axes[0, 0].legend(loc="upper left")
        axes[1, -1].legend(loc="upper right")
        return finish(figure, "")
