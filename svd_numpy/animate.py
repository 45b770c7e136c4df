"""The moving picture of a run: first-layer weights go dark while the test error stays.

Recording and drawing are apart. `FrameRecorder` keeps one byte per shown weight and epoch, so that recording
hardly slows a run; `render_gif` draws later, with matplotlib for the curves and Pillow for the GIF. Only the
drawing needs these two.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Array = NDArray[Any]

__all__ = ["FrameRecorder", "render_gif"]

_SCHEMA = 1
_ZERO = 128  # code of the weight 0; 1…255 are live weights, 0 is a pruned one
_STEPS = 127
_DARK = (27, 30, 38)  # a pruned weight
_SEAM = (84, 89, 102)  # the line between two units
_TITLE = "Sparse VD: weights die, the error stays"
_HOLD_MS = 3000  # on the last frame, so that the end can be read before it starts again


class FrameRecorder:
    """Small pictures of a first layer over a run, one per epoch.

    Parameters
    ----------
    image_shape : (H, W) or (C, H, W)
        How the I inputs of the layer lie in an image (product I); channels are summed.
    max_units : int
        Only the first `max_units` units are recorded.

    Attributes
    ----------
    codes : list of uint8 array (U, H, W)
        Per frame: 0 for a pruned weight, otherwise 128 + 127 * weight / scale, rounded.
    scales : list of float
        Per frame: the largest recorded magnitude.
    epochs, test_errors, sparsities : list
        Per frame: epoch, test error (fraction, NaN if unknown), share of all the model's weights pruned.

    Raises
    ------
    ValueError
        If image_shape or max_units make no sense.
    """

    def __init__(self, image_shape: Sequence[int], max_units: int = 100) -> None:
        shape = tuple(int(size) for size in image_shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"image_shape is {shape}; expected (H, W) or (C, H, W), all positive")
        if max_units < 1:
            raise ValueError(f"max_units is {max_units}; expected at least 1")
        self.image_shape = shape
        self.max_units = int(max_units)
        self.codes: list[NDArray[np.uint8]] = []
        self.scales: list[float] = []
        self.epochs: list[int] = []
        self.test_errors: list[float] = []
        self.sparsities: list[float] = []

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.codes)

    def add(
        self,
        epoch: int,
        theta: Array,
        log_alpha: Array,
        threshold: float,
        test_error: float | None,
        sparsity_total: float,
    ) -> None:
        """Record one epoch; it must be later than the recorded ones.

        Parameters
        ----------
        epoch : int
            Epoch, from 1.
        theta, log_alpha : array (I, O)
            Means and log dropout rates of the first layer. Neither is kept.
        threshold : float
            A weight with ``log_alpha >= threshold`` is drawn as pruned.
        test_error : float or None
            Fraction; None if it was not measured.
        sparsity_total : float
            Share of all weights of the model that are pruned, in [0, 1].

        Raises
        ------
        ValueError
            If the shapes or numbers do not fit, or the epoch is not later. Nothing is recorded then.
        """
        theta, log_alpha = np.asarray(theta), np.asarray(log_alpha)
        inputs = math.prod(self.image_shape)
        if theta.ndim != 2 or theta.shape[0] != inputs or theta.shape[1] < 1:
            raise ValueError(
                f"theta has shape {theta.shape}; image_shape {self.image_shape} needs ({inputs}, units)"
            )
        if log_alpha.shape != theta.shape:
            raise ValueError(f"log_alpha has shape {log_alpha.shape}; expected that of theta, {theta.shape}")
        if not 0.0 <= sparsity_total <= 1.0:
            raise ValueError(f"sparsity_total is {sparsity_total}; expected a fraction in [0, 1]")
        if self.epochs and epoch <= self.epochs[-1]:
            raise ValueError(
                f"epoch {epoch} does not follow epoch {self.epochs[-1]}; call drop_after({epoch - 1}) first "
                "when a run resumes from an earlier checkpoint"
            )
        shown = slice(0, self.max_units)
        codes, scale = self._quantise(theta[:, shown], log_alpha[:, shown] < threshold)
        if self.codes and codes.shape != self.codes[0].shape:
            raise ValueError(
                f"the layer now shows {len(codes)} units; earlier frames show {len(self.codes[0])}"
            )
        self.codes.append(codes)
        self.scales.append(scale)
        self.epochs.append(int(epoch))
        self.test_errors.append(math.nan if test_error is None else float(test_error))
        self.sparsities.append(float(sparsity_total))

    def _quantise(self, theta: Array, alive: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], float]:
        """One byte per pixel (U, H, W) and the magnitude of code 255; a pixel dies with its last channel."""
        shape = (-1, *(1,) * (3 - len(self.image_shape)), *self.image_shape)
        kept = np.where(alive, theta, 0.0).T.reshape(shape).sum(axis=1)
        if not np.isfinite(kept).all():
            raise ValueError("theta holds NaN or infinity among the weights kept; expected finite weights")
        scale = float(np.abs(kept).max())
        levels = np.rint(kept * (_STEPS / scale)) if scale > 0 else np.zeros(kept.shape)
        codes = np.where(alive.T.reshape(shape).any(axis=1), levels + _ZERO, 0)
        return codes.astype(np.uint8), scale

    def drop_after(self, epoch: int) -> None:
        """Forget the frames later than `epoch`, for a run that goes on from an earlier checkpoint.

        Parameters
        ----------
        epoch : int
            The last epoch to keep.
        """
        kept = sum(recorded <= epoch for recorded in self.epochs)
        for column in (self.codes, self.scales, self.epochs, self.test_errors, self.sparsities):
            del column[kept:]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all frames to one compressed .npz file, whole or not at all.

        Parameters
        ----------
        path : path
            Its folder must exist. An older file is replaced.

        Raises
        ------
        ValueError
            If nothing is recorded.
        OSError
            If the file cannot be written.
        """
        _check_frames(self)
        arrays = {
            "schema": np.array(_SCHEMA),
            "image_shape": np.array(self.image_shape),
            "max_units": np.array(self.max_units),
            "codes": np.stack(self.codes),
            "scales": np.array(self.scales),
            "epochs": np.array(self.epochs),
            "test_errors": np.array(self.test_errors),
            "sparsities": np.array(self.sparsities),
        }
        _write_atomically(Path(path), lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FrameRecorder:
        """Read the frames that `save` wrote; more can be added.

        Parameters
        ----------
        path : path
            A file written by `save`.

        Returns
        -------
        FrameRecorder
            With the recorded frames.

        Raises
        ------
        ValueError
            If the file is not one of `save`, or of another schema.
        OSError
            If it cannot be read.
        """
        with np.load(path, allow_pickle=False) as file:
            if "schema" not in file or "codes" not in file or int(file["schema"]) != _SCHEMA:
                raise ValueError(
                    f"{path} holds no frames of schema {_SCHEMA}; expected a file of FrameRecorder.save"
                )
            recorder = cls(file["image_shape"].tolist(), int(file["max_units"]))
            recorder.codes = list(file["codes"])
            recorder.scales = file["scales"].tolist()
            recorder.epochs = file["epochs"].tolist()
            recorder.test_errors = file["test_errors"].tolist()
            recorder.sparsities = file["sparsities"].tolist()
        return recorder


def render_gif(
    frames: FrameRecorder, path: str | os.PathLike[str], *, fps: float = 10.0, width_px: int = 640
) -> None:
    """Draw the frames as an animated GIF that runs for ever and rests on its last frame.

    Left the weights of the recorded units, dark where pruned; right the test error and the share of weights
    left, growing with the epochs.

    Parameters
    ----------
    frames : FrameRecorder
        At least one frame.
    path : path
        Its folder must exist. An older file is replaced, whole or not at all.
    fps : float
        Frames per second, 1 to 50; GIF counts in hundredths of a second.
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

    _check_frames(frames)
    if not 1.0 <= fps <= 50.0:
        raise ValueError(f"fps is {fps}; expected 1 to 50 frames per second")
    if width_px < 320:
        raise ValueError(f"width_px is {width_px}; expected at least 320 pixels, or the text cannot be read")
    pictures = _draw_frames(frames, int(width_px))
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette().ravel().tolist())
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    step = 10 * max(2, round(100 / fps))
    durations = [step] * (len(indexed) - 1) + [_HOLD_MS]

    def write(file: IO[bytes]) -> None:
        indexed[0].save(
            file, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True
        )

    _write_atomically(Path(path), write)


def _draw_frames(frames: FrameRecorder, width: int) -> list[Image]:
    """All frames as RGB pictures; axes and labels are drawn once and only what changes is drawn again."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from svd_numpy.plots import STYLE

    unit = width / 640  # everything is laid out for 640 pixels
    margin, head = round(12 * unit), round(64 * unit)
    limit = _common_scale(frames)
    mosaics = [
        _mosaic(codes, scale / limit, width // 2)
        for codes, scale in zip(frames.codes, frames.scales, strict=True)
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
        bottom = _Panel(figure, frames.epochs, kept, "sparsity", below, across, "left (%)")
        top.ax.tick_params(labelbottom=False)
        bottom.ax.set_xlabel("epoch")
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        pictures = []
        for index, epoch in enumerate(frames.epochs):
            canvas.restore_region(background)
            caption.set_text(f"epoch {epoch}: {len(frames.codes[index])} units, black = pruned")
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
        from svd_numpy.plots import COLOURS, _epoch_axis, _log_scale

        height = figure.bbox.height
        self.epochs, self.values = np.array(epochs), values
        self.ax = figure.add_axes((across[0], 1 - sum(down) / height, across[1], down[1] / height))
        ink: dict[str, Any] = {"color": COLOURS[colour], "animated": True}
        (self.line,) = self.ax.plot([], [], linewidth=2.2, clip_on=False, **ink)
        (self.dot,) = self.ax.plot([], [], "o", markersize=6, clip_on=False, **ink)
        self.title = self.ax.set_title("", fontweight="bold", **ink)
        _log_scale(self.ax, values)
        _epoch_axis(self.ax, [{"epoch": epoch} for epoch in epochs], labelled=False)
        self.ax.set_ylabel(label)
        self.ax.yaxis.set_label_coords(-0.14, 0.5)

    def draw(self, index: int, title: str) -> None:
        """Draw the values up to a frame over what the canvas shows."""
        values = self.values[: index + 1]
        # A value of 0 has no place on a log axis, and an epoch without evaluation has none at all.
        known = np.flatnonzero(np.isfinite(values) & (values > 0))
        self.line.set_data(self.epochs[known], values[known])
        self.dot.set_data(self.epochs[known[-1:]], values[known[-1:]])
        self.title.set_text(title)
        for artist in (self.line, self.dot, self.title):
            self.ax.draw_artist(artist)


def _left_text(sparsity: float) -> str:
    ratio = f" (1 in {1 / (1 - sparsity):.3g})" if sparsity < 1 else ""
    return f"weights left: {100 * (1 - sparsity):.3g} %{ratio}"


def _common_scale(frames: FrameRecorder) -> float:
    """Magnitude of the strongest colour in all frames: the largest of their 99th percentiles."""
    limits = [0.0]
    for codes, scale in zip(frames.codes, frames.scales, strict=True):
        live = codes[codes > 0]
        if live.size:
            limits.append(scale * float(np.percentile(np.abs(live.astype(np.int16) - _ZERO), 99)) / _STEPS)
    return max(limits) or 1.0


def _mosaic(codes: NDArray[np.uint8], gain: float, target: int) -> NDArray[np.uint8]:
    """Codes (U, H, W) of one frame as an RGB picture, units side by side, at most `target` pixels a side."""
    count, height, width = codes.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    strength = np.clip(gain * (codes.astype(np.float64) - _ZERO) / _STEPS, -1.0, 1.0)
    tiles = np.where((codes == 0)[..., None], np.array(_DARK, dtype=np.uint8), _shades(strength))
    picture = np.empty((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), dtype=np.uint8)
    picture[:] = _SEAM
    for index, tile in enumerate(tiles):
        y, x = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        picture[y : y + height, x : x + width] = tile
    return _resize(picture, target)


def _palette() -> NDArray[np.uint8]:
    """One palette (n, 3) for all frames: only pixels that change are stored anew, and nothing flickers."""
    from matplotlib.colors import to_rgb

    from svd_numpy.plots import COLOURS, STYLE

    inks = [COLOURS["ink"], COLOURS["test"], COLOURS["sparsity"], STYLE["xtick.color"]]
    paper = np.ones(3)
    # Antialiased edges are mixtures of an ink and the paper.
    mixtures = [paper + share * (to_rgb(ink) - paper) for ink in inks for share in np.linspace(0.125, 1.0, 8)]
    drawn = np.rint(255 * np.array([paper, to_rgb(STYLE["grid.color"]), *mixtures])).astype(np.uint8)
    return np.concatenate([drawn, _shades(np.linspace(-1, 1, 17)), np.array([_DARK, _SEAM], dtype=np.uint8)])


def _shades(strength: Array) -> NDArray[np.uint8]:
    """Colours of weights in [-1, 1], 17 of them: enough for so small a picture, and the GIF stays small."""
    from matplotlib import colormaps

    colours = np.asarray(colormaps["RdBu_r"](0.5 + np.rint(8 * strength) / 16))
    rgb: NDArray[np.uint8] = np.rint(255 * colours[..., :3]).astype(np.uint8)
    return rgb


def _resize(picture: NDArray[np.uint8], target: int) -> NDArray[np.uint8]:
    """Enlarge by a whole factor, or thin out what is too large, to at most `target` pixels a side."""
    side = max(picture.shape[:2])
    if side <= target:
        factor = target // side
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    rows, columns = (np.arange(int(n * target / side)) * side // target for n in picture.shape[:2])
    return picture[np.ix_(rows, columns)]


def _check_frames(frames: FrameRecorder) -> None:
    if not len(frames):
        raise ValueError("no frame is recorded; call FrameRecorder.add at least once")


def _write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write next to the target, then rename: a reader, or a crash, never sees half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)  # temporary files are private to their owner
    os.replace(file.name, path)
