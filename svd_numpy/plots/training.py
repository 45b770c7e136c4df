"""Pictures of a training run: weights die while the test error stays.

Every function takes plain data (epoch records, arrays) and returns a figure of its own. Nothing uses pyplot, so the
figures need no display and are freed like any other object, and notebooks still show them.

A *masked* weight matrix is ``theta`` with exact zeros where weights are pruned, that is, where
``log_alpha > threshold``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.plots.mosaic import draw_mosaic, grid, unit_images, with_blank
from svd_numpy.plots.panels import (
    COLOURS,
    WIDTH,
    Array,
    Record,
    check_history,
    check_log_alphas,
    check_theta,
    column,
    curve,
    draw_compression,
    draw_errors,
    draw_histogram,
    draw_schedules,
    draw_sparsity,
    epoch_axis,
    finish,
    histogram_edges,
    log_scale,
    new_figure,
    shade_finetune,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(history: Sequence[Record], *, title: str = "") -> Figure:
    """Draw six panels over the epochs of a run: error, NLL, KL, sparsity, compression and schedules.

    Parameters
    ----------
    history : sequence of mappings, one per epoch, epochs increasing
        Keys ``epoch``, ``stage`` ("variational" or "finetune"), ``nll`` and ``test_nll`` (nats per example),
        ``kl`` (nats), ``kl_weight``, ``lr``, ``train_error`` and ``test_error`` (fractions),
        ``sparsity`` ({layer: fraction of weights pruned}) and ``compression`` (all weights / kept weights).
        ``test_error`` and ``test_nll`` may be missing or None.
    title : str
        Printed above the panels.

    Returns
    -------
    Figure
        Axes in reading order. Fine-tuning epochs are shaded.

    Raises
    ------
    ValueError
        If the history is empty, lacks a key, or its epochs or layers are inconsistent.
    """
    check_history(history)
    with style():
        figure = new_figure(WIDTH, 8.2)
        (error, nll), (kl, sparsity), (compression, schedule) = figure.subplots(3, 2, sharex=True)
        draw_errors(error, history)
        curve(nll, history, "nll", "train", "train")
        curve(nll, history, "test_nll", "test", "test")
        nll.set(title="Negative log likelihood", ylabel="NLL (nats / example)")
        curve(kl, history, "kl", "ink", "KL")
        weighted = column(history, "kl") * column(history, "kl_weight")
        kl.plot(column(history, "epoch"), weighted, "--", color=COLOURS["accent"], label=r"KL weight $\times$ KL")
        kl.set(title="KL to the prior, all weights", ylabel="KL (nats)")
        log_scale(kl, np.concatenate([column(history, "kl"), weighted]))
        draw_sparsity(sparsity, history)
        draw_compression(compression, history)
        draw_schedules(schedule, history)
        for ax in (error, nll, kl, sparsity, compression, schedule):
            shade_finetune(ax, history)
            epoch_axis(ax, history, labelled=ax in (compression, schedule))
        for ax in (error, nll, kl):
            ax.legend()
        return finish(figure, title)


def living_weights(history: Sequence[Record], *, title: str = "") -> Figure:
    """Draw how many weights live, and how long a step takes, over the epochs of a run.

    Parameters
    ----------
    history : sequence of mappings, one per epoch, epochs increasing
        Keys ``epoch``, ``stage``, ``living`` (weights that have not been removed) and ``ms_per_step``.
    title : str

    Returns
    -------
    Figure
        Two panels, one above the other, both on logarithmic axes.

    Raises
    ------
    ValueError
        If the history is empty, lacks a key, or its epochs are inconsistent.
    """
    check_history(history)
    with style():
        figure = new_figure(WIDTH * 0.7, 5.0)
        panels = figure.subplots(2, 1, sharex=True)
        named = (
            ("living", "sparsity", "Living weights", ",.0f"),
            ("ms_per_step", "accent", "Milliseconds per step", ".2f"),
        )
        for ax, (key, colour, name, form) in zip(panels, named, strict=True):
            curve(ax, history, key, colour, name)
            first, last = (format(column(history, key)[epoch], form) for epoch in (0, -1))
            ax.set(title=f"{name}: {first} to {last}")
            log_scale(ax, column(history, key))
            shade_finetune(ax, history)
            epoch_axis(ax, history, labelled=ax is panels[-1])
        return finish(figure, title)


def log_alpha_histogram(log_alphas: Mapping[str, Array], threshold: float) -> Figure:
    """Draw a histogram of the log dropout rates of each layer, split at the pruning threshold.

    Parameters
    ----------
    log_alphas : mapping {layer name: array of any shape}
        ``log_alpha = log_sigma2 - log(theta**2)``; infinities fall into the outermost bins.
    threshold : float
        Weights with ``log_alpha > threshold`` are pruned (3.0 in Molchanov et al. 2017, section 5).

    Returns
    -------
    Figure
        One row per layer, with the number of weights on a log axis and the share pruned in the title.

    Raises
    ------
    ValueError
        If there is no layer, a layer is empty or holds NaN, or the threshold is not finite.
    """
    check_log_alphas(log_alphas, threshold)
    edges = histogram_edges(log_alphas.values(), threshold)
    with style():
        figure = new_figure(WIDTH * 0.8, 1.1 + 1.55 * len(log_alphas))
        rows = np.atleast_1d(figure.subplots(len(log_alphas), 1, sharex=True))
        for ax, (name, log_alpha) in zip(rows, log_alphas.items(), strict=True):
            draw_histogram(ax, name, log_alpha, threshold, edges)
        rows[-1].set_xlabel(r"$\log\,\alpha$  (log of the dropout rate)")
        figure.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return finish(figure, "")


def receptive_fields(theta: Array, image_shape: Sequence[int], n: int = 64) -> Figure:
    """Draw the incoming weights of the hidden units that keep the most, as small images.

    Parameters
    ----------
    theta : array (I, O)
        Masked weights of a first layer: exact zeros where pruned.
    image_shape : (H, W) or (C, H, W) with product I
        How the inputs of the layer form an image; channels are summed.
    n : int
        Number of units to draw; all of them if n is larger.

    Returns
    -------
    Figure
        A mosaic, the units with most weights first. Units without a weight are blank; the title counts them.

    Raises
    ------
    ValueError
        If theta is not a finite matrix, image_shape does not fit, or n < 1.
    """
    images = unit_images(theta, image_shape)
    if n < 1:
        raise SvdValueError(f"n is {n}; expected the number of units to draw, at least 1")
    with style():
        aspect = images.shape[2] / images.shape[1]
        rows, columns = grid(min(n, len(images)), aspect)
        figure = new_figure(WIDTH * 0.8, WIDTH * 0.8 * rows / (columns * aspect))
        draw_mosaic(figure.subplots(), theta, images, n, "hidden units")
        return finish(figure, "")


def pixel_importance(theta: Array, image_shape: Sequence[int]) -> Figure:
    """Draw how much the first layer still uses each input pixel.

    Parameters
    ----------
    theta : array (I, O)
        Masked weights of a first layer: exact zeros where pruned.
    image_shape : (H, W) or (C, H, W) with product I
        How the inputs form an image; channels are summed.

    Returns
    -------
    Figure
        On the left the number of surviving weights of each pixel, on the right the sum of their absolute values. Pixels
        without weights are blank.

    Raises
    ------
    ValueError
        If theta is not a finite matrix or image_shape does not fit.
    """
    shape = check_theta(theta, image_shape)
    survivors = np.count_nonzero(theta, axis=1).reshape(shape).sum(axis=0)
    magnitude = np.abs(theta).sum(axis=1).reshape(shape).sum(axis=0)
    blank = survivors == 0
    with style():
        height = 0.9 + 0.35 * WIDTH * shape[1] / shape[2]
        figure = new_figure(WIDTH, min(max(height, 2.6), 6.0))
        panels = (("surviving weights", survivors), (r"sum of $|\theta|$", magnitude))
        for ax, (label, values) in zip(figure.subplots(1, 2), panels, strict=True):
            image = ax.imshow(np.where(blank, np.nan, values), cmap=with_blank("cividis"), vmin=0)
            figure.colorbar(image, ax=ax, label=f"{label} per pixel", shrink=0.85)
            ax.set(xlabel="pixel column", ylabel="pixel row")
            ax.grid(visible=False)
        return finish(figure, f"{int(blank.sum()):,} of {blank.size:,} pixels are not used by any hidden unit")


def summary_figure(
    history: Sequence[Record],
    log_alphas: Mapping[str, Array],
    theta0: Array,
    threshold: float,
    image_shape: Sequence[int],
    title: str = "",
    units: str = "hidden units",
) -> Figure:
    """Draw a run in one picture: the error stays, the weights go, and what the surviving ones look like.

    Parameters
    ----------
    history : sequence of mappings
        As in `training_curves`.
    log_alphas : mapping {layer name: array}
        As in `log_alpha_histogram`; every name must be a layer of the history.
    theta0 : array (I, O)
        Masked weights of the first layer.
    threshold : float
        Pruning threshold on log_alpha.
    image_shape : (H, W) or (C, H, W) with product I
        How the inputs of the first layer form an image.
    title : str
        Printed above the panels.
    units : str
        Name of the outputs of the first layer, such as "filters" for a convolution.

    Returns
    -------
    Figure
        Axes: test and train error, weights pruned, receptive fields, then one histogram per layer.

    Raises
    ------
    ValueError
        As in the functions above, or if log_alphas names a layer that the history does not have.
    """
    check_history(history)
    check_log_alphas(log_alphas, threshold)
    known = list(history[0]["sparsity"])
    for name in log_alphas:
        if name not in known:
            raise SvdValueError(f"log_alphas names the layer {name!r}; the history has only {known}")
    images = unit_images(theta0, image_shape)
    edges = histogram_edges(log_alphas.values(), threshold)
    columns = min(len(log_alphas), 4)
    rows = math.ceil(len(log_alphas) / columns)
    heights = [4.6, 0.6 + 1.55 * rows]
    with style():
        figure = new_figure(WIDTH, sum(heights) + 0.3)
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)
        top, bottom = parts
        left, right = top.subfigures(1, 2, width_ratios=[1.0, 1.12])
        error, sparsity = left.subplots(2, 1, sharex=True)
        draw_errors(error, history)
        draw_sparsity(sparsity, history)
        error.legend()
        for ax in (error, sparsity):
            shade_finetune(ax, history)
            epoch_axis(ax, history, labelled=ax is sparsity)
        draw_mosaic(right.subplots(), theta0, images, 64, units)
        for index, (name, log_alpha) in enumerate(log_alphas.items()):
            ax = bottom.add_subplot(rows, columns, index + 1)
            draw_histogram(ax, name, log_alpha, threshold, edges, brief=True)
            ax.set_ylabel("weights" if index % columns == 0 else "")
            if index + columns >= len(log_alphas):
                ax.set_xlabel(r"$\log\,\alpha$")
        bottom.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return finish(figure, title)


def compression_accounts(accounts: Sequence[tuple[str, str, float]], *, title: str = "") -> Figure:
    """Draw bars of the compression of one network, counted in several ways.

    Parameters
    ----------
    accounts : sequence of (what is counted, who counts this way, ratio)
        From top to bottom. Ratios are finite and above 0.
    title : str
        Printed above the bars.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is no account, or a ratio is not finite and above 0.
    """
    if not accounts or not all(math.isfinite(ratio) and ratio > 0 for _, _, ratio in accounts):
        raise SvdValueError(f"accounts are {list(accounts)}; expected at least one, with finite ratios above 0")
    ratios = [ratio for _, _, ratio in accounts]
    with style():
        figure = new_figure(WIDTH, 1.0 + 0.42 * len(accounts))
        ax = figure.subplots()
        bars = ax.barh(range(len(accounts)), ratios, color=COLOURS["kept"], height=0.62)
        ax.bar_label(bars, [f"{ratio:,.1f}x" for ratio in ratios], padding=4)
        ax.set_yticks(range(len(accounts)), [f"{what}\n{source}" for what, source, _ in accounts], fontsize=8)
        ax.invert_yaxis()
        ax.set(xscale="log", xlim=(min(1.0, *ratios) * 0.9, max(ratios) * 3), xlabel="times smaller")
        ax.grid(visible=False, axis="y")
        return finish(figure, title)


def error_against_compression(
    runs: Mapping[str, Sequence[tuple[float, float]]], published: tuple[float, float] | None = None, *, title: str = ""
) -> Figure:
    """Draw error against compression: every run, and the means of the groups, joined in the order given.

    Parameters
    ----------
    runs : mapping of group -> (error, compression) of each of its runs
        Errors are fractions; compressions are all weights / kept weights.
    published : (error, compression), optional
        A published result to compare with.
    title : str
        Printed above.

    Returns
    -------
    Figure
        Up and to the left is better.

    Raises
    ------
    ValueError
        If a group is empty, or a number is not finite.
    """
    groups = [np.asarray(group, np.float64).reshape(-1, 2) for group in runs.values()]
    if not groups or not all(group.size and np.isfinite(group).all() for group in groups):
        raise SvdValueError(f"runs are {dict(runs)}; expected groups of (error, compression), all of them finite")
    means = np.array([group.mean(axis=0) for group in groups]) * (100, 1)
    with style():
        figure = new_figure(WIDTH, 4.6)
        ax = figure.subplots()
        for number, group in enumerate(groups):
            label = None if number else "a run"
            ax.plot(100 * group[:, 0], group[:, 1], "o", color=COLOURS["train"], alpha=0.35, ms=5, label=label)
        ax.plot(*means.T, "o-", color=COLOURS["train"], ms=8, label="mean")
        for name, mean in zip(runs, means, strict=True):
            ax.annotate(name, mean, xytext=(10, -12), textcoords="offset points", fontsize=9)
        seen = np.concatenate([group[:, 1] for group in groups])
        if published is not None:
            ax.plot(100 * published[0], published[1], "*", color=COLOURS["test"], ms=14, ls="", label="published")
            seen = np.append(seen, published[1])
        log_scale(ax, seen)
        ax.margins(x=0.15)
        ax.set(xlabel="test error %", ylabel="all weights / weights kept")
        ax.legend(loc="lower right")
        return finish(figure, title)
