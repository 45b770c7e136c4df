"""Figures of a network before and after training: filters, part of a matrix, feature maps, live units.

Re-exported by `svd_numpy.plots`, whose conventions apply here too. Pruned weights are white in all figures, and kept
ones never are, however small: the middle of the colour map is grey. Filters without a weight left are crossed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.plots.mosaic import draw_tiles, grid, noise_colours, strength_limit, weight_colours
from svd_numpy.plots.panels import (
    COLOURS,
    WIDTH,
    Array,
    check_theta,
    finish,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def filters(
    before: Array,
    after: Array,
    log_alpha: Array,
    threshold: float,
    image_shape: Sequence[int],
    n: int = 64,
    units: str = "filters",
) -> Figure:
    """Draw first-layer filters before training, the noise of their weights after training, and what remains of them.

    Parameters
    ----------
    before, after : array (I, O)
        Weights at the start, and at the end with exact zeros where pruned.
    log_alpha : array (I, O)
        The log dropout rates that decided what was pruned.
    threshold : float
        Weights with ``log_alpha > threshold`` are pruned.
    image_shape : (H, W) or (C, H, W) with product I
        How the inputs of a filter form an image; channels are drawn side by side.
    n : int
        How many filters to draw; if there are more, those with the most weights are drawn.
    units : str
        Their name in the title: "filters", or "hidden units" for a dense layer.

    Returns
    -------
    Figure
        Three mosaics with each filter at the same place. Pruned weights are white, dead filters crossed out.

    Raises
    ------
    ValueError
        If the arrays are not finite matrices of one shape, image_shape does not fit, or n < 1.
    """
    channels, height, width = check_theta(after, image_shape)
    _check_pair(before, after)
    if np.shape(log_alpha) != np.shape(after) or np.isnan(log_alpha).any():
        raise SvdValueError(f"log_alpha has shape {np.shape(log_alpha)}; expected {np.shape(after)}, without NaN")
    if n < 1:
        raise SvdValueError(f"n is {n}; expected the number of filters to draw, at least 1")
    survivors = np.count_nonzero(after, axis=0)
    order = np.arange(len(survivors))
    if len(order) > n:
        order = np.sort(np.argsort(-survivors, kind="stable")[:n])

    def tiles(array: Array) -> Array:
        """(I, O) -> (n, H, C * W)."""
        of_unit = np.asarray(array)[:, order].T.reshape(-1, channels, height, width)
        return of_unit.transpose(0, 2, 1, 3).reshape(len(order), height, channels * width)

    live = int(np.count_nonzero(survivors))
    shown = "" if len(order) == len(survivors) else f", the {len(order)} with most weights"
    rows, columns = grid(len(order), channels * width / height)
    ratio = rows * (height + 1) / (columns * (channels * width + 1))
    with style():
        figure = new_figure(WIDTH, 1.15 + ratio * WIDTH / 3.15)
        first, noise, last = figure.subplots(1, 3)
        start, kept, dead = tiles(before), tiles(after), survivors[order] == 0
        _weights(first, start, np.zeros(len(order), bool), "weight $\\theta$")
        _weights(last, np.where(kept == 0, np.nan, kept), dead, "weight $\\theta$ (white: pruned)")
        values = np.clip(tiles(log_alpha).astype(np.float64), -20, 20)
        colours, norm = noise_colours(values, threshold)
        image = draw_tiles(noise, values, dead=np.zeros(len(order), bool), cmap=colours, norm=norm)
        _bar(noise, image, f"$\\log\\,\\alpha$ (grey: above {threshold:g}, pruned)")
        first.set_title("Before training")
        noise.set_title("Noise after training")
        last.set_title("Weights after training")
        split = f"; {channels} channels side by side" if channels > 1 else ""
        return finish(figure, f"First layer: {live} of {len(survivors)} {units} live{shown}{split}")


def weight_matrix(before: Array, after: Array, size: int = 100, name: str = "") -> Figure:
    """Draw part of a weight matrix before and after training, one pixel per weight.

    Parameters
    ----------
    before, after : array (I, O)
        Weights at the start, and at the end with exact zeros where pruned.
    size : int
        Rows and columns of the part, taken from the middle of the matrix; all of them if there are fewer.
    name : str
        Name of the layer, for the title.

    Returns
    -------
    Figure
        Two panels. Pruned weights are white.

    Raises
    ------
    ValueError
        If the arrays are not finite matrices of one shape, or size < 1.
    """
    inputs, units = _check_pair(before, after)
    if size < 1:
        raise SvdValueError(f"size is {size}; expected a number of rows and columns, at least 1")
    top, left = (max(0, (full - size) // 2) for full in (inputs, units))
    bottom, right = min(inputs, top + size), min(units, left + size)
    share = 100 * np.count_nonzero(after) / np.size(after)
    with style():
        aspect = min(max((bottom - top) / (right - left), 0.4), 2.5)
        figure = new_figure(WIDTH, 1.5 + 0.44 * WIDTH * aspect)
        for ax, array, title in zip(figure.subplots(1, 2), (before, after), ("Before", "After"), strict=True):
            piece = np.asarray(array)[top:bottom, left:right]
            limit = strength_limit(piece)
            image = ax.imshow(
                np.where(piece == 0, np.nan, piece),
                cmap=weight_colours(),
                vmin=-limit,
                vmax=limit,
                extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5),
            )
            kept = np.count_nonzero(piece)
            ax.set(title=f"{title} training: {kept:,} of {piece.size:,} weights", xlabel="unit", ylabel="input")
            ax.grid(visible=False)
            for spine in ax.spines.values():
                spine.set_visible(True)
            _bar(ax, image, r"weight $\theta$ (white: pruned)")
        return finish(figure, f"{name or 'Weights'}, {inputs:,} by {units:,}: {share:.3g} % of the weights are left")


def feature_maps(
    image: Array, before: Mapping[str, Array], after: Mapping[str, Array], live: Mapping[str, Array]
) -> Figure:
    """Draw the outputs of convolution filters for one image: initial weights beside trained and pruned ones.

    Parameters
    ----------
    image : array (C, H, W)
        One channel, or three for red, green and blue; values are stretched to the full range.
    before, after : mapping {layer name: array (O, h, w)}
        The outputs of each filter, with the initial and with the remaining weights.
    live : mapping {layer name: bool array (O,)}
        Which filters still have a weight. A dead one gives the same output for every image and is crossed out.

    Returns
    -------
    Figure
        Axes: the image, then two per layer. Each mosaic has one scale of brightness; dark is no output.

    Raises
    ------
    ValueError
        If the layer names differ, there are none, or an array has another shape.
    """
    if np.ndim(image) != 3 or np.shape(image)[0] not in (1, 3):
        raise SvdValueError(f"image has shape {np.shape(image)}; expected (C, H, W) with one channel or three")
    if not after or not set(after) == set(before) == set(live):
        names = [sorted(one) for one in (before, after, live)]
        raise SvdValueError(f"before, after and live have the layers {names}; expected the same ones, at least one")
    for name, maps in after.items():
        if np.ndim(maps) != 3 or np.shape(before[name]) != np.shape(maps) or np.shape(live[name]) != (len(maps),):
            shapes = np.shape(before[name]), np.shape(maps), np.shape(live[name])
            raise SvdValueError(f"layer {name!r}: got shapes {shapes}, expected (O, h, w) twice and (O,)")
    side = WIDTH * np.array([0.24, 0.38])  # of the image, and of each mosaic
    heights = []
    for maps in after.values():
        rows, columns = grid(len(maps), maps.shape[2] / maps.shape[1])
        heights.append(0.4 + side[1] * rows * (maps.shape[1] + 1) / (columns * (maps.shape[2] + 1)))
    with style():
        figure = new_figure(WIDTH, max(0.35 + sum(heights), 1.7 + side[0]))
        parts: Any = figure.subfigures(1, 2, width_ratios=[side[0], 2 * side[1]])
        _photograph(parts[0].subplots(), image)
        axes = parts[1].subplots(len(after), 2, height_ratios=heights, squeeze=False)
        for row, (name, maps) in zip(axes, after.items(), strict=True):
            alive = np.asarray(live[name], dtype=bool)
            for ax, answers, dead in ((row[0], before[name], np.zeros(len(maps), bool)), (row[1], maps, ~alive)):
                seen = answers[~dead]
                high = float(np.percentile(seen, 99.5)) if seen.size else 1.0
                low = min(0.0, float(seen.min())) if seen.size else 0.0
                draw_tiles(ax, answers, dead=dead, cmap="magma", vmin=low, vmax=max(high, low + 1e-12))
            row[0].set_title(f"{name} before training")
            row[1].set_title(f"{name} after: {alive.sum()} of {len(alive)} filters live")
        return finish(figure, "The output of each filter for one image")


def live_units(live: Mapping[str, tuple[int, int]]) -> Figure:
    """Draw bars of the live units, or filters, in each layer.

    Parameters
    ----------
    live : mapping {layer name: (live, all)}
        As in `Sparsity.live`: the number of units with at least one surviving incoming weight, and of all units.

    Returns
    -------
    Figure
        One bar per layer, the first layer on top, with its counts beside it.

    Raises
    ------
    ValueError
        If there is no layer, or not 0 <= live <= all with all at least 1.
    """
    if not live:
        raise SvdValueError("live is empty; expected {layer name: (live, all)}, at least one layer")
    for name, (count, total) in live.items():
        if not 0 <= count <= total or total < 1:
            raise SvdValueError(
                f"layer {name!r}: got {count} live of {total}; expected 0 <= live <= all, all at least 1"
            )
    names = list(live)
    share = np.array([100 * count / total for count, total in live.values()])
    with style():
        figure = new_figure(WIDTH * 0.8, 1.15 + 0.34 * len(names))
        ax = figure.subplots()
        ax.barh(names, 100, color=COLOURS["dead"], height=0.66, label="dead")
        ax.barh(names, share, color=COLOURS["kept"], height=0.66, label="live")
        for place, (count, total) in enumerate(live.values()):
            ax.text(102, place, f"{count:,} of {total:,}", verticalalignment="center", fontsize=9)
        ax.set(xlim=(0, 100), xlabel="live filters or units (% of the layer)")
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        total = sum(total for _, total in live.values())
        return finish(figure, f"{sum(count for count, _ in live.values()):,} of {total:,} filters and units are live")


def _check_pair(before: Array, after: Array) -> tuple[int, int]:
    """Check that two finite matrices have the same shape, and return it."""
    for name, array in (("before", before), ("after", after)):
        if np.ndim(array) != 2 or np.size(array) == 0 or not np.isfinite(array).all():
            raise SvdValueError(
                f"{name} has shape {np.shape(array)}; expected a matrix (inputs, units) of finite weights"
            )
    if np.shape(before) != np.shape(after):
        raise SvdValueError(f"before has shape {np.shape(before)}; expected that of after, {np.shape(after)}")
    inputs, units = np.shape(after)
    return inputs, units


def _weights(ax: Axes, tiles: Array, dead: Array, label: str) -> None:
    limit = strength_limit(tiles)
    _bar(ax, draw_tiles(ax, tiles, dead=dead, cmap=weight_colours(), vmin=-limit, vmax=limit), label)


def _bar(ax: Axes, image: Any, label: str) -> None:
    """Put a colour bar below."""
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.9, aspect=28, extend="both", pad=0.03)
    bar.set_label(label)


def _photograph(ax: Axes, image: Array) -> None:
    low, high = float(np.min(image)), float(np.max(image))
    stretched = (np.moveaxis(np.asarray(image, dtype=np.float64), 0, -1) - low) / max(high - low, 1e-12)
    ax.imshow(stretched if stretched.shape[-1] == 3 else stretched[..., 0], cmap="gray")
    ax.set_title("The image")
    ax.set_xlabel("Bright: strong output.\nDark: none.\nCrossed out: a dead filter,\nwithout any weight.", fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.set_anchor("N")
