"""Pictures of a finished network: what its threshold costs, how calibrated it is, what it does not know.

As in `svd_numpy.plots`: plain data in, a figure of its own out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from svd_numpy._panels import COLOURS, WIDTH, Array, finish, layer_style, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trade_off(
    thresholds: Array,
    error: Array,
    density: Array,
    layer_error: Mapping[str, Array],
    layer_density: Mapping[str, Array],
    chosen: float | None = None,
) -> Figure:
    """Error against threshold and against the share of weights kept; each layer alone in a third panel.

    Parameters
    ----------
    thresholds, error, density : array (T,)
        Thresholds on log_alpha; error and share of weights kept with all layers pruned there.
    layer_error, layer_density : mapping {layer name: array (T,)}
        The same with one layer pruned and the others whole; without any, the third panel is left out.
    chosen : float, optional
        A threshold to mark.

    Returns
    -------
    Figure
    """
    from matplotlib.ticker import FuncFormatter

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
        for ax in (right, *more):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
            ax.xaxis.set_minor_formatter(FuncFormatter(lambda tick, _: f"{tick:g}" if f"{tick:e}"[0] in "25" else ""))
        return finish(figure, "")
