"""Weights as small images side by side: how a mosaic is laid out, and its colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.plots.panels import COLOURS, Array, check_theta

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.image import AxesImage


def grid(count: int, aspect: float = 1.0) -> tuple[int, int]:
    """Rows and columns of a nearly square grid of `count` cells, each `aspect` times as wide as high.

    The last row is full if a grid not much wider allows it.
    """
    side = math.sqrt(count / aspect)
    least = math.ceil(side)
    full = [columns for columns in range(least, math.ceil(1.6 * side) + 1) if count % columns == 0]
    columns = full[0] if full else least
    return math.ceil(count / columns), columns


def _corners(count: int, height: int, width: int, columns: int) -> Iterator[tuple[int, int]]:
    """Row and column of the picture where each tile of a mosaic begins."""
    for index in range(count):
        row, column = divmod(index, columns)
        yield row * (height + 1) + 1, column * (width + 1) + 1


def mosaic(tiles: Array, columns: int, seam: Any) -> Array:
    """Lay tiles (n, H, W, ...) side by side in one picture, framed by lines of the colour `seam`, 1 pixel wide."""
    count, height, width = tiles.shape[:3]
    rows = math.ceil(count / columns)
    picture = np.empty((rows * (height + 1) + 1, columns * (width + 1) + 1, *tiles.shape[3:]), tiles.dtype)
    picture[:] = seam
    for (top, left), tile in zip(_corners(count, height, width, columns), tiles, strict=True):
        picture[top : top + height, left : left + width] = tile
    return picture


def draw_mosaic(ax: Axes, theta: Array, images: Array, n: int, units: str) -> None:
    """Draw the n units with the most surviving weights as images, side by side."""
    survivors = np.count_nonzero(theta, axis=0)
    order = np.argsort(-survivors, kind="stable")[:n]
    tiles = np.where((survivors[order] > 0)[:, None, None], images[order], np.nan)
    limit = strength_limit(images)
    picture = mosaic(tiles, grid(len(tiles), tiles.shape[2] / tiles.shape[1])[1], np.nan)
    image = ax.imshow(picture, cmap=with_blank("RdBu_r"), vmin=-limit, vmax=limit)
    ax.set_axis_off()
    dead = int(np.sum(survivors == 0))
    shown = f"{len(order)} of {len(survivors)} {units}" if len(order) < len(survivors) else units.capitalize()
    ax.set_title(f"{shown}, most weights first\ndead {units.split()[-1]}: {dead} of {len(survivors)}")
    ax.figure.colorbar(image, ax=ax, orientation="horizontal", shrink=0.7, aspect=32, extend="both").set_label(
        r"weight $\theta$ (pruned = 0)"
    )


def draw_tiles(ax: Axes, tiles: Array, *, dead: Array, **colours: Any) -> AxesImage:
    """Draw tiles (n, H, W) in frames, NaN white; tiles that `dead` (n,) marks are crossed out.

    `colours` are keyword arguments of `imshow`.
    """
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    count, height, width = tiles.shape
    columns = grid(count, width / height)[1]
    image = ax.imshow(mosaic(np.where(dead[:, None, None], np.nan, tiles), columns, np.nan), **colours)
    frames, crosses = [], []
    for (top, left), crossed in zip(_corners(count, height, width, columns), dead, strict=True):
        y, x = top - 0.5, left - 0.5
        fill = COLOURS["dead"] if crossed else "none"
        frames.append(Rectangle((x, y), width, height, facecolor=fill, edgecolor=COLOURS["pruned"], linewidth=0.7))
        if crossed:
            crosses += [[(x, y), (x + width, y + height)], [(x, y + height), (x + width, y)]]
    ax.add_collection(PatchCollection(frames, match_original=True))
    ax.add_collection(LineCollection(crosses, colors=COLOURS["pruned"], linewidths=0.7))
    ax.set_axis_off()
    return image


def unit_images(theta: Array, image_shape: Sequence[int]) -> Array:
    """Weights (I, O) as one image per unit (O, H, W), summed over channels."""
    shape = check_theta(theta, image_shape)
    images: Array = np.asarray(theta).T.reshape(-1, *shape).sum(axis=1)
    return images


def strength_limit(weights: Array) -> float:
    """Magnitude that gets the strongest colour: the 99th percentile, as a few huge weights would pale all others."""
    strength = np.abs(weights[np.isfinite(weights) & (weights != 0)])
    return float(np.percentile(strength, 99.0)) if strength.size else 1.0


def weight_colours() -> Colormap:
    """Blue to red with a grey middle, so that a small weight differs from a pruned one, which is white."""
    from matplotlib import colormaps

    return colormaps["coolwarm"].with_extremes(bad="white")


def noise_colours(log_alpha: Array, threshold: float) -> tuple[Colormap, Normalize]:
    """Blues for kept weights, darker with less noise; greys for pruned ones."""
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    low, high = np.percentile(log_alpha, [1.0, 99.0])
    first_pruned = float(np.nextafter(np.float32(threshold), np.float32(np.inf)))  # at the threshold a weight is kept
    norm = TwoSlopeNorm(first_pruned, min(low, threshold - 1.0), max(high, threshold + 1.0))
    steps = [(0.0, "#023858"), (0.5, "#A6CEE3"), (0.5, COLOURS["dead"]), (1.0, "#8A8F98")]
    return LinearSegmentedColormap.from_list("noise", steps).with_extremes(bad="white"), norm


def with_blank(name: str) -> Colormap:
    """Return a colour map in which NaN is blank paper."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=COLOURS["dead"])
