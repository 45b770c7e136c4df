"""Pictures of recurrent networks on text: losses of several networks, and what is left of one.

Every function takes plain data and returns a figure of its own, as those in `training.py` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.plots.panels import (
    COLOURS,
    WIDTH,
    Array,
    Record,
    column,
    epoch_axis,
    finish,
    layer_style,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST = 0.01  # per cent: where the axis of shares begins


def loss_curves(histories: Mapping[str, Sequence[Record]], unit: str = "letter", *, title: str = "") -> Figure:
    """Draw training and validation NLL of several networks over the epochs.

    The lesson is where the curves of the validation turn up: a dense network begins to learn its text by heart.

    Parameters
    ----------
    histories : mapping {name of a network: its epochs}
        Records with the keys ``epoch``, ``nll`` and ``valid_nll`` (nats; may be None).
    unit : str
        What an NLL is of.
    title : str

    Returns
    -------
    Figure
        One panel: for each network a solid line (validation) with a dot at its best epoch, and a dashed one (training).

    Raises
    ------
    SvdValueError
        If there is no network, or one without a validation NLL.
    """
    if not histories:
        raise SvdValueError("histories is empty; expected {name of a network: its epochs}, at least one")
    for name, history in histories.items():
        if not np.isfinite(column(history, "valid_nll")).any():
            raise SvdValueError(f"network {name!r}: none of its {len(history)} epochs has a valid_nll")
    with style():
        figure = new_figure(WIDTH * 0.8, 4.2)
        ax = figure.subplots()
        for number, (name, history) in enumerate(histories.items()):
            colour = layer_style(number)["color"]
            epochs, train, valid = (column(history, key) for key in ("epoch", "nll", "valid_nll"))
            known = np.isfinite(valid)
            best = int(np.nanargmin(valid))
            label = f"{name}: best {valid[best]:.3f}, last {valid[known][-1]:.3f}"
            ax.plot(epochs[known], valid[known], color=colour, label=label)
            ax.plot(epochs[best], valid[best], "o", color=colour)
            ax.plot(epochs, train, "--", color=colour, linewidth=1)
        shown = np.concatenate(
            [column(history, key)[1:] for history in histories.values() for key in ("nll", "valid_nll")]
        )
        shown = shown[np.isfinite(shown)]
        if shown.size:  # the first epoch is far above, and would hide what comes later
            low, high = shown.min(), min(shown.max(), 2 * np.median(shown))
            ax.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
        ax.set(title="solid: validation, with a dot where it is best; dashed: training", ylabel=f"NLL (nats / {unit})")
        ax.legend()
        epoch_axis(ax, max(histories.values(), key=len), labelled=True)
        return finish(figure, title)


def shares_left(counts: Mapping[str, tuple[int, int]], *, title: str = "") -> Figure:
    """Draw how much is left of every matrix, and how many words, units and gates, on a logarithmic axis.

    Parameters
    ----------
    counts : mapping {what: (left, all)}
    title : str

    Returns
    -------
    Figure
        One bar for each, in their order from the top, with its counts beside it.

    Raises
    ------
    SvdValueError
        If there is nothing to draw, or not 0 <= left <= all with all at least 1.
    """
    if not counts:
        raise SvdValueError("counts is empty; expected {what: (left, all)}, at least one")
    for name, (left, total) in counts.items():
        if not 0 <= left <= total or total < 1:
            raise SvdValueError(f"{name!r}: got {left} left of {total}; expected 0 <= left <= all, all at least 1")
    shares = [100 * left / total for left, total in counts.values()]
    with style():
        figure = new_figure(WIDTH * 0.85, 1.15 + 0.34 * len(counts))
        ax = figure.subplots()
        ax.barh([*counts], 100, color=COLOURS["dead"], height=0.66)
        ax.barh([*counts], [max(share, _LEAST) for share in shares], color=COLOURS["kept"], height=0.66)
        for place, (left, total) in enumerate(counts.values()):
            ratio = f" ({total / left:,.{0 if total >= 10 * left else 1}f}x)" if left else ""
            ax.text(120, place, f"{left:,} of {total:,}{ratio}", verticalalignment="center", fontsize=9)
        ax.set(xscale="log", xlim=(_LEAST, 100), xlabel="left (%)")
        ax.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        return finish(figure, title)


def gate_map(weights: Array, values: Array, live: Array, names: Sequence[str], *, title: str = "") -> Figure:
    """Draw which gates of a recurrent layer still depend on something, and at which values the others stand.

    Parameters
    ----------
    weights : int array (gates, units)
        Weights left in each gate.
    values : array (gates, units)
        Value of a gate that has none: a constant. NaN where it has no fixed one.
    live : bool array (units,)
        Which units are alive.
    names : sequence of str
        What the gates are called.
    title : str

    Returns
    -------
    Figure
        Above, a column for each unit, those with the most weights first; below, the constants of live units.

    Raises
    ------
    SvdValueError
        If the shapes do not fit each other.
    """
    shape = np.shape(weights)
    if np.shape(values) != shape or shape != (len(names), np.size(live)) or 0 in shape:
        raise SvdValueError(
            f"weights, values, live and names: got shapes {shape}, {np.shape(values)}, {np.shape(live)} and "
            f"{len(names)} names, expected (gates, units) twice, (units,) and a name for each gate"
        )
    order = np.argsort(-np.where(live, weights.sum(axis=0) + 1, 0), kind="stable")
    weights, values, live = weights[:, order], values[:, order], live[order]
    constant = live & (weights == 0)
    with style():
        figure = new_figure(WIDTH, 4.4)
        above, below = figure.subplots(2, 1, height_ratios=[3, 2])
        _paint(above, weights, constant, live)
        labels = [
            f"{name}: {int((live & (row > 0)).sum())} depend, {int(still.sum())} constant"
            for name, row, still in zip(names, weights, constant, strict=True)
        ]
        above.set(yticks=range(len(names)), yticklabels=labels, title=f"{live.sum()} of {live.size} units are live")
        above.set_xlabel("units; blue: darker with more weights, orange: a constant gate, grey: a dead unit")
        for row, (still, at) in enumerate(zip(constant, values, strict=True)):
            below.plot(at[still], np.full(still.sum(), row), "|", color=_CONSTANT, markersize=14)
        below.set(
            yticks=range(len(names)), yticklabels=[*names], xlim=(-1.05, 1.05), ylim=(len(names) - 0.5, -0.5),
            title="Values of the constant gates", xlabel="value",
        )  # fmt: skip
        return finish(figure, title)


_CONSTANT = "#E69F00"


def _paint(ax: Axes, weights: Array, constant: Array, live: Array) -> None:
    """Draw the map itself: an image of (gates, units) colours."""
    from matplotlib.colors import to_rgb

    strength = (np.log1p(weights) / max(np.log1p(weights.max()), 1e-9))[..., None]
    kept, pale = (np.array(to_rgb(colour)) for colour in (COLOURS["kept"], "#CFE3F2"))
    colours = pale + strength * (kept - pale)
    colours[constant] = to_rgb(_CONSTANT)
    colours[:, ~live] = to_rgb(COLOURS["dead"])
    ax.imshow(colours, aspect="auto", interpolation="nearest")
    ax.grid(visible=False)


def words_left(gains: Mapping[str, float], n: int = 20, *, title: str = "") -> Figure:
    """Draw the words that move a network most, towards each of two classes.

    Parameters
    ----------
    gains : mapping {word: what it adds to the log odds}
        As `weigh_words` returns it.
    n : int
        The largest number of words on each side.
    title : str

    Returns
    -------
    Figure
        Two panels: the words with the lowest gains, and those with the highest.

    Raises
    ------
    SvdValueError
        If there is no word, or a gain is not finite.
    """
    if not gains or not np.isfinite([*gains.values()]).all():
        raise SvdValueError(f"gains: got {len(gains)} words, expected at least one, all with finite gains")
    ranked = sorted(gains, key=gains.__getitem__)
    sides = {
        "against": [word for word in ranked[:n] if gains[word] < 0],
        "in favour": [word for word in ranked[::-1][:n] if gains[word] > 0],
    }
    rows = max(1, *map(len, sides.values()))
    with style():
        figure = new_figure(WIDTH, 1.3 + 0.24 * rows)
        for ax, (side, words), colour in zip(
            figure.subplots(1, 2, sharex=True), sides.items(), ("test", "train"), strict=True
        ):
            ax.barh(range(len(words)), [abs(gains[word]) for word in words], color=COLOURS[colour], height=0.7)
            # a word may hold a dollar sign, which would begin a formula
            labels = [word.replace("$", r"\$") for word in words]
            ax.set(yticks=range(len(words)), yticklabels=labels, ylim=(rows - 0.4, -0.6), title=f"{side}: {len(words)}")
            ax.set_xlabel("change of the log odds, as the only word")
            ax.grid(visible=False, axis="y")
        return finish(figure, title)
