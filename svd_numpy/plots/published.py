"""Our runs of the papers' rows beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svd_numpy.plots.panels import COLOURS, WIDTH, finish, log_scale, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "os^D"
_LABEL = {"color": COLOURS["ink"], "ls": "", "ms": 7}


class Place(NamedTuple):
    """Where a row is drawn.

    Attributes
    ----------
    panel : str
        Title of the panel.
    method : str
        It decides the colour.
    counted : str
        What the compression counts; it decides the marker, because different counts are not comparable.
    """

    panel: str
    method: str
    counted: str


def beside_published(
    places: Mapping[str, Place], ours: Mapping[str, Sequence[tuple[float, float]]],
    published: Mapping[str, tuple[float, float]], title: str = "",
) -> Figure:  # fmt: skip
    """Draw error against compression: means of our runs with bars of a standard deviation, published points hollow.

    Parameters
    ----------
    places : mapping of row -> Place
    ours : mapping of row -> (error, compression) of each of its runs
        Errors are fractions. Rows may be missing.
    published : mapping of row -> (error, compression)
        Rows may be missing.
    title : str
        Printed above.

    Returns
    -------
    Figure
        A panel for each network. Up and to the left is better.
    """
    panels, methods, counts = (list(dict.fromkeys(values)) for values in zip(*places.values(), strict=True))
    with style():
        figure = new_figure(WIDTH * (0.55 + 0.45 * len(panels)), 4.8)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=True):
            seen = list[float]()
            for row, place in places.items():
                if place.panel != panel:
                    continue
                look = {
                    "color": f"C{methods.index(place.method) % 10}",
                    "marker": _MARKERS[counts.index(place.counted)],
                }
                ends = []
                if row in ours:
                    runs = np.asarray(ours[row], np.float64) * (100, 1)
                    mean, sd = runs.mean(axis=0), runs.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(2)
                    ax.errorbar(
                        *mean,
                        xerr=sd[0],
                        yerr=min(sd[1], 0.999 * mean[1]),
                        capsize=2,
                        ms=6,
                        elinewidth=1.1,
                        ls="",
                        **look,
                    )
                    ends.append(mean)
                if row in published:
                    ends.append(np.array(published[row]) * (100, 1))
                    ax.plot(*ends[-1], ms=8, mfc="none", mew=1.6, ls="", clip_on=False, **look)
                if len(ends) == 2:
                    ax.plot(*np.transpose(ends), "-", color=look["color"], lw=0.7, alpha=0.6)
                seen += [float(end[1]) for end in ends]
            log_scale(ax, np.array(seen))
            ax.margins(x=0.12)
            ax.set(title=panel, xlabel="test error %")
        axes[0].set_ylabel("whole network / what is left")
        for number, method in enumerate(methods):
            axes[0].plot([], [], "-", lw=4, color=f"C{number % 10}", label=method)
        for number, what in enumerate(counts):
            axes[0].plot([], [], marker=_MARKERS[number], label=f"ours, {what}", **_LABEL)
        if published:
            axes[0].plot([], [], marker="o", mfc="none", mew=1.6, label="published: hollow", **_LABEL)
        figure.legend(loc="outside right upper", fontsize=8)
        return finish(figure, title)
