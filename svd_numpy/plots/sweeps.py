"""The picture of a sweep: error against compression of every point, and what each number decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.plots.panels import COLOURS, WIDTH, finish, log_scale, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"valid_error": "error", "compression": "compression"}


def sweep_points(
    points: Sequence[tuple[float, float, bool]], importance: Mapping[str, Mapping[str, float]], *, title: str = ""
) -> Figure:
    """Draw the points of a sweep.

    Parameters
    ----------
    points : sequence of (error, compression, best)
        Error on held-out images, a fraction; all weights / kept weights; whether no other point beats it in both.
    importance : mapping of "valid_error" or "compression" -> {number: share}
        How much each varied number decides, 0 to 1; empty to leave that panel out.
    title : str
        Printed above.

    Raises
    ------
    SvdValueError
        If there is no point, or one is not finite.
    """
    values = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if not len(values) or not np.isfinite(values).all():
        raise SvdValueError(f"points are {list(points)}; expected at least one, all of them finite")
    best = np.array([point[2] for point in points], bool)
    with style():
        figure = new_figure(WIDTH, 4.6)
        ax, *others = figure.subplots(
            1, 1 + bool(importance), squeeze=False, width_ratios=[2, 1][: 1 + bool(importance)]
        )[0]
        ax.plot(100 * values[~best, 0], values[~best, 1], "o", color=COLOURS["train"], alpha=0.35, label="a point")
        front = values[best][np.argsort(values[best, 0])]
        ax.plot(100 * front[:, 0], front[:, 1], "o-", color=COLOURS["test"], label="nothing beats it in both")
        log_scale(ax, values[:, 1])
        ax.margins(x=0.1)
        ax.set(xlabel="error on held-out images %", ylabel="all weights / weights kept")
        ax.legend(loc="lower right")
        for bars in others:
            names = list(next(iter(importance.values())))
            at, height = np.arange(len(names)), 0.8 / len(importance)
            for number, (figure_name, shares) in enumerate(importance.items()):
                colour = COLOURS["test" if figure_name == "valid_error" else "train"]
                lengths = [100 * shares[name] for name in names]
                bars.barh(at + number * height, lengths, height, color=colour, label=_NAMES[figure_name])
            bars.set(yticks=at + 0.4 - height / 2, yticklabels=names, xlabel="share of the variance %", xlim=(0, 100))
            bars.invert_yaxis()
            bars.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(importance))
        return finish(figure, title)
