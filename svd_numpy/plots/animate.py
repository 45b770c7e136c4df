"""The animation of a run: first-layer weights go dark while the test error stays.

Recording (`svd_numpy.plots.frames`) is separate from drawing: `render_gif` draws after the run, with matplotlib for the
curves and Pillow for the GIF. Recording needs neither.
"""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.files.atomic import write_atomic
from svd_numpy.plots.frames import STEPS, ZERO, FrameRecorder
from svd_numpy.plots.mosaic import mosaic
from svd_numpy.plots.panels import COLOURS, STYLE, Array, epoch_axis, log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["FrameRecorder", "render_gif"]

_DARK = (27, 30, 38)  # a pruned weight
_SEAM = (84, 89, 102)  # the line between two units
_TITLE = "Sparse VD: weights die, the error stays"
_HOLD_MS = 3000  # for the last frame, so that it can be read before the animation starts again


def render_gif(frames: FrameRecorder, path: str | os.PathLike[str], *, fps: float = 10.0, width_px: int = 640) -> None:
    """Draw the frames as an animated GIF that loops for ever and pauses on its last frame.

    On the left are the weights of the recorded units, dark where pruned; on the right the curves of the test error and
    the share of weights left grow with the epochs.

    Parameters
    ----------
    frames : FrameRecorder
        At least one frame.
    path : path
        An existing file is replaced, whole or not at all.
    fps : float
        Frames per second, 1 to 50; rounded, since a GIF counts in hundredths of a second.
    width_px : int
        Width in pixels, at least 320.

    Raises
    ------
    ValueError
        If there are no frames or a number is out of range.
    OSError
        If the file cannot be written.
    """
    from PIL import Image

    frames.require_frames()
    if not 1.0 <= fps <= 50.0:
        raise SvdValueError(f"fps is {fps}; expected 1 to 50 frames per second")
    if width_px < 320:
        raise SvdValueError(f"width_px is {width_px}; expected at least 320 pixels, so that the text can be read")
    pictures = _draw_frames(frames, int(width_px))
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette().ravel().tolist())
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    step = 10 * max(2, round(100 / fps))
    durations = [step] * (len(indexed) - 1) + [_HOLD_MS]

    file = io.BytesIO()
    indexed[0].save(file, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)
    write_atomic(as_path("path", path), file.getvalue())


def _draw_frames(frames: FrameRecorder, width: int) -> list[Image]:
    """All frames as RGB pictures; axes and labels are drawn once, and each frame redraws only what changes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    unit = width / 640  # the layout is for 640 pixels
    margin, head = round(12 * unit), round(64 * unit)
    limit = _common_scale(frames)
    mosaics = [
        _picture(codes, scale / limit, width // 2) for codes, scale in zip(frames.codes, frames.scales, strict=True)
    ]
    side_y, side_x = mosaics[0].shape[:2]
    height = max(head + side_y + margin, round(330 * unit))
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 6.4 * height / width), dpi=100 * unit)
        canvas: Any = FigureCanvasAgg(figure)
        align: dict[str, Any] = {"horizontalalignment": "left", "verticalalignment": "center"}
        left = margin / width
        figure.text(left, 1 - 22 * unit / height, _TITLE, fontsize=12, fontweight="bold", **align)
        caption = figure.text(left, 1 - 46 * unit / height, "", fontsize=10, animated=True, **align)
        errors = 100.0 * np.array(frames.test_errors)
        kept = 100.0 * (1.0 - np.array(frames.sparsities))
        x, panel_height = (margin + side_x + 64 * unit) / width, (height - head - 102 * unit) / 2
        across = (x, 1 - x - 14 * unit / width)
        top = _Panel(figure, frames.epochs, errors, "test", (head, panel_height), across, "error (%)")
        below = (height - 50 * unit - panel_height, panel_height)
        bottom = _Panel(figure, frames.epochs, kept, "sparsity", below, across, "weights (%)")
        top.ax.tick_params(labelbottom=False)
        bottom.ax.set_xlabel("epoch")
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        pictures = []
        for index, epoch in enumerate(frames.epochs):
            canvas.restore_region(background)
            caption.set_text(f"epoch {epoch}: first layer, black = pruned")
            figure.draw_artist(caption)
            known = np.flatnonzero(np.isfinite(errors[: index + 1]))
            top.draw(index, f"test error: {errors[known[-1]]:.2f} %" if known.size else "test error")
            bottom.draw(index, _left_text(frames.sparsities[index]))
            pixels = np.array(canvas.buffer_rgba())[:, :, :3]
            pixels[head : head + side_y, margin : margin + side_x] = mosaics[index]
            pictures.append(Image.fromarray(pixels))
    return pictures


class _Panel:
    """A curve that grows with the frames, its last value in the title."""

    def __init__(
        self,
        figure: Figure,
        epochs: list[int],
        values: Array,
        colour: str,
        down: tuple[float, float],
        across: tuple[float, float],
        label: str,
    ) -> None:
        height = figure.bbox.height
        self.epochs, self.values = np.array(epochs), values
        self.ax = figure.add_axes((across[0], 1 - sum(down) / height, across[1], down[1] / height))
        ink: dict[str, Any] = {"color": COLOURS[colour], "animated": True}
        (self.line,) = self.ax.plot([], [], linewidth=2.2, clip_on=False, **ink)
        (self.dot,) = self.ax.plot([], [], "o", markersize=6, clip_on=False, **ink)
        self.title = self.ax.set_title("", fontweight="bold", **ink)
        log_scale(self.ax, values)
        epoch_axis(self.ax, [{"epoch": epoch} for epoch in epochs], labelled=False)
        self.ax.set_ylabel(label)
        self.ax.yaxis.set_label_coords(-0.14, 0.5)

    def draw(self, index: int, title: str) -> None:
        """Draw the values up to a frame on top of the canvas."""
        values = self.values[: index + 1]
        # A log axis cannot show a value of 0, and an epoch without evaluation has no value.
        known = np.flatnonzero(np.isfinite(values) & (values > 0))
        self.line.set_data(self.epochs[known], values[known])
        self.dot.set_data(self.epochs[known[-1:]], values[known[-1:]])
        self.title.set_text(title)
        for artist in (self.line, self.dot, self.title):
            self.ax.draw_artist(artist)


def _left_text(sparsity: float) -> str:
    ratio = f" (1 in {1 / (1 - sparsity):.3g})" if sparsity < 1 else ""
    return f"{100 * (1 - sparsity):.3g} % left{ratio}"


def _common_scale(frames: FrameRecorder) -> float:
    """Magnitude of the strongest colour in all frames: the largest of their 99th percentiles."""
    limits = [0.0]
    for codes, scale in zip(frames.codes, frames.scales, strict=True):
        live = codes[codes > 0]
        if live.size:
            limits.append(scale * float(np.percentile(np.abs(live.astype(np.int16) - ZERO), 99)) / STEPS)
    return max(limits) or 1.0


def _picture(codes: NDArray[np.uint8], gain: float, target: int) -> NDArray[np.uint8]:
    """Codes (U, H, W) of one frame as an RGB picture, units side by side, at most `target` pixels a side."""
    columns = math.isqrt(len(codes))  # tall rather than wide: the curves beside it need the width
    strength = np.clip(gain * (codes.astype(np.float64) - ZERO) / STEPS, -1.0, 1.0)
    tiles = np.where((codes == 0)[..., None], np.array(_DARK, dtype=np.uint8), _shades(strength))
    return _resize(mosaic(tiles, columns, _SEAM), target)


def _palette() -> NDArray[np.uint8]:
    """One palette (n, 3) for all frames, so that only pixels that change are stored and nothing flickers."""
    from matplotlib.colors import to_rgb

    inks = [COLOURS["ink"], COLOURS["test"], COLOURS["sparsity"], STYLE["xtick.color"]]
    paper = np.ones(3)
    # Antialiased edges are mixtures of an ink and the paper.
    mixtures = [paper + share * (to_rgb(ink) - paper) for ink in inks for share in np.linspace(0.125, 1.0, 8)]
    drawn = np.rint(255 * np.array([paper, to_rgb(STYLE["grid.color"]), *mixtures])).astype(np.uint8)
    return np.concatenate([drawn, _shades(np.linspace(-1, 1, 17)), np.array([_DARK, _SEAM], dtype=np.uint8)])


def _shades(strength: Array) -> NDArray[np.uint8]:
    """Colours of weights in [-1, 1], 17 in all: enough for a small picture, and few enough for a small file."""
    from matplotlib import colormaps

    colours = np.asarray(colormaps["RdBu_r"](0.5 + np.rint(8 * strength) / 16))
    rgb: NDArray[np.uint8] = np.rint(255 * colours[..., :3]).astype(np.uint8)
    return rgb


def _resize(picture: NDArray[np.uint8], target: int) -> NDArray[np.uint8]:
    """Enlarge by a whole factor, or drop rows and columns, to at most `target` pixels a side."""
    side = max(picture.shape[:2])
    if side <= target:
        factor = target // side
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    rows, columns = (np.arange(int(n * target / side)) * side // target for n in picture.shape[:2])
    return picture[np.ix_(rows, columns)]
