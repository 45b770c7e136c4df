"""The parts of the figures of `svd_numpy.plots`: style, one function per panel, axes, and checks."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Record = Mapping[str, Any]

# From Okabe & Ito (2008), whose colours readers with any common colour blindness can tell apart.
COLOURS = {
    "test": "#D55E00",
    "train": "#0072B2",
    "kept": "#0072B2",
    "pruned": "#B8BCC2",
    "sparsity": "#009E73",
    "accent": "#CC79A7",
    "dead": "#E4E6EA",
    "ink": "#22262B",
}
_LAYER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#6F4E9C", "#7A7A7A")
_LAYER_DASHES = ("-", "--", "-.", ":")

# Typed loosely, as matplotlib's type for these keys differs between releases.
STYLE: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 140,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6B7280",
    "axes.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": "#4B5563",
    "ytick.color": "#4B5563",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}

WIDTH = 8.4  # inches; at 100 dots per inch this is the width of a README column
_NEEDED = ("epoch", "stage", "nll", "kl", "kl_weight", "lr", "train_error", "sparsity", "compression")
_STAGES = ("variational", "finetune")


def is_pruned(log_alpha: Array, threshold: float) -> NDArray[np.bool_]:
    """Whether weights with these log dropout rates are pruned; at the threshold itself a weight is kept."""
    return np.asarray(log_alpha) > threshold


def draw_errors(ax: Axes, history: Sequence[Record]) -> None:
    """Draw training and test error by epoch."""
    curve(ax, history, "train_error", "train", "train", scale=100.0)
    curve(ax, history, "test_error", "test", "test", scale=100.0)
    test = 100.0 * column(history, "test_error")
    known = test[np.isfinite(test)]
    if known.size == 1:  # measured only once, at the end: a line through one point is invisible
        ax.lines[-1].set_marker("o")
    ax.set(title=f"Error: {known[-1]:.2f} % on the test set" if known.size else "Error", ylabel="error (%)")
    log_scale(ax, np.concatenate([test, 100.0 * column(history, "train_error")]))


def draw_sparsity(ax: Axes, history: Sequence[Record]) -> None:
    """Draw the share of pruned weights of each layer by epoch."""
    epochs = column(history, "epoch")
    for index, name in enumerate(history[0]["sparsity"]):
        share = np.array([100.0 * record["sparsity"][name] for record in history])
        ax.plot(epochs, share, label=f"{name}  {share[-1]:.1f} %", **layer_style(index), **_marker(history))
    ratio = history[-1]["compression"]
    ax.set(title=f"Weights pruned: 1 in {ratio:.3g} is left", ylabel="pruned (%)", ylim=(-3, 103))
    layers = len(history[0]["sparsity"])
    if 0 < layers <= 3:
        ax.legend(loc="best")
    elif layers:  # no corner is large enough for the legend: make room above the curves
        columns, size, height = (2, 8.0, 17) if layers <= 6 else (3, 6.5, 12)
        ax.set(ylim=(-3, 106 + height * math.ceil(layers / columns)), yticks=range(0, 101, 20))
        ax.legend(loc="upper center", ncols=columns, fontsize=size, handlelength=1.4, columnspacing=0.8)


def layer_style(index: int) -> dict[str, Any]:
    """Colour and dashes for layer number `index`; 32 layers all look different."""
    dash = _LAYER_DASHES[(index // len(_LAYER_COLOURS)) % len(_LAYER_DASHES)]
    return {"color": _LAYER_COLOURS[index % len(_LAYER_COLOURS)], "linestyle": dash}


def draw_compression(ax: Axes, history: Sequence[Record]) -> None:
    """Draw compression by epoch, on a logarithmic axis."""
    curve(ax, history, "compression", "sparsity", "all / kept")
    ratio = column(history, "compression")
    ax.set(title=f"Compression: {ratio[-1]:.3g}" + r" $\times$", ylabel="all weights / kept weights")
    log_scale(ax, ratio)


def draw_schedules(ax: Axes, history: Sequence[Record]) -> None:
    """Draw the KL weight on the left axis and the learning rate on the right, as their scales differ."""
    curve(ax, history, "kl_weight", "accent", "KL weight")
    ax.set(title="Schedules", ylim=(-0.04, max(1.0, column(history, "kl_weight").max()) * 1.08))
    ax.set_ylabel("KL weight (solid)", color=COLOURS["accent"])
    right = ax.twinx()
    right.plot(column(history, "epoch"), column(history, "lr"), "--", color=COLOURS["ink"], **_marker(history))
    right.set_ylabel("learning rate (dashed)", color=COLOURS["ink"])
    right.set_ylim(0, 1.08 * (column(history, "lr").max() or 1.0))
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    right.grid(visible=False)
    right.spines["right"].set_visible(True)


def draw_histogram(
    ax: Axes, name: str, log_alpha: Array, threshold: float, edges: Array, *, brief: bool = False
) -> None:
    """Draw the histogram of one layer's log alpha, pruned weights in another colour."""
    values = np.asarray(log_alpha, dtype=np.float64).ravel()
    # Every weight is counted: those beyond the drawn range, infinities too, fall into the outermost bins. Bins are open
    # on the left and closed on the right, as at the threshold a weight is kept; hence the minus signs.
    counts = np.histogram(-np.clip(values, edges[0], edges[-1]), -edges[::-1])[0][::-1]
    gone = is_pruned(edges[1:], threshold)
    for part, label in ((~gone, "kept"), (gone, "pruned")):
        ax.bar(
            edges[:-1][part],
            counts[part],
            np.diff(edges)[part],
            align="edge",
            color=COLOURS[label],
            label=label,
        )
    ax.axvline(threshold, color=COLOURS["test"], linewidth=1.5, linestyle="--", label=f"threshold {threshold:g}")
    pruned = int(np.count_nonzero(is_pruned(log_alpha, threshold)))
    share = 100.0 * pruned / values.size
    ax.set_yscale("log")
    ax.set(ylim=(0.7, 3.0 * counts.max()), xlim=(edges[0], edges[-1]))
    ax.grid(visible=False, axis="x")
    if brief:
        ax.set_title(f"{name}: {share:.1f} % pruned", fontsize=10)
    else:
        ax.set_title(f"{name}: {share:.1f} % pruned, {values.size - pruned:,} of {values.size:,} weights kept")
        ax.set_ylabel("weights")


def curve(ax: Axes, history: Sequence[Record], key: str, colour: str, label: str, *, scale: float = 1.0) -> None:
    """Draw one line over the epochs, or nothing if no epoch has a value."""
    values = scale * column(history, key)
    known = np.isfinite(values)  # the line bridges epochs without evaluation
    if known.any():
        epochs = column(history, "epoch")
        ax.plot(epochs[known], values[known], color=COLOURS[colour], label=label, **_marker(history))


def _marker(history: Sequence[Record]) -> dict[str, Any]:
    """Dots on short runs: a line through one epoch is invisible."""
    return {"marker": "o", "markersize": 4} if len(history) <= 12 else {}


def column(history: Sequence[Record], key: str) -> NDArray[np.float64]:
    """Values of a key as float64, NaN where they are missing or None."""
    values = (record.get(key) for record in history)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def shade_finetune(ax: Axes, history: Sequence[Record]) -> None:
    """Shade the epochs of fine-tuning."""
    first: float | None = None
    label: str | None = "fine-tuning"
    for record in [*history, {"stage": None, "epoch": history[-1]["epoch"] + 1}]:
        fine = record["stage"] == "finetune"
        if fine and first is None:
            first = record["epoch"] - 0.5
        elif not fine and first is not None:
            ax.axvspan(first, record["epoch"] - 0.5, color="#F5E6C8", alpha=0.6, linewidth=0, label=label)
            first, label = None, None


def epoch_axis(ax: Axes, history: Sequence[Record], *, labelled: bool) -> None:
    """Give an axis ticks at whole epochs, from the first to the last."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if labelled:
        ax.set_xlabel("epoch")


def log_scale(ax: Axes, values: Array) -> None:
    """Give an axis a log scale with plain numbers; its ends are 1, 2 or 5 times a power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    steps = np.array([m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)])
    low = steps[max(np.searchsorted(steps, positive.min(), side="right") - 1, 0)]
    high = steps[min(np.searchsorted(steps, positive.max() * 1.0001), len(steps) - 1)]
    ax.set_yscale("log")
    ax.set_ylim(0.93 * low, 1.07 * high)
    wide = high / low > 100
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.10g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def histogram_edges(arrays: Iterable[Array], threshold: float) -> Array:
    """Bin edges shared by all layers; one edge is the threshold, so that no bar is half pruned."""
    values = np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.0005, 0.9995]) if values.size else (threshold, threshold)
    low, high = min(low, threshold - 1.0), max(high, threshold + 1.0)
    width = (high - low) / 60
    first, last = math.floor((low - threshold) / width), math.ceil((high - threshold) / width)
    return threshold + width * np.arange(first, last + 1)


@functools.cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class SelfShowingFigure(Figure):
        """A figure outside pyplot that notebooks can still show."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return SelfShowingFigure


def new_figure(width: float, height: float) -> Figure:
    """Make a figure, sized in inches, that needs no display."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A little more height around each text than the default; otherwise the main title touches those of the panels.
    return _figure_class()(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07))


def style() -> Any:
    """Return a context manager that applies the style of these figures."""
    from matplotlib import rc_context

    return rc_context(STYLE)


def finish(figure: Figure, title: str) -> Figure:
    """Add the title and lay out the figure while the style applies: ticks are made and styled by the layout.

    The engine is done after that: `savefig` would lay the figure out again, and draw it twice.
    """
    if title:
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=13, fontweight="bold")
    engine = figure.get_layout_engine()
    assert engine is not None
    for _ in range(2):  # the second time with the sizes that the first one has given
        engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


def check_history(history: Sequence[Record]) -> None:
    """Raise a ValueError unless a history can be drawn."""
    if not history:
        raise SvdValueError("the history is empty; expected one record per epoch, so train at least one epoch first")
    layers = set(history[0].get("sparsity", ()))
    before = -math.inf
    for index, record in enumerate(history):
        missing = [key for key in _NEEDED if key not in record]
        if missing:
            raise SvdValueError(f"record {index} of the history has no {missing}; expected the keys {list(_NEEDED)}")
        if record["stage"] not in _STAGES:
            raise SvdValueError(f"record {index} has the stage {record['stage']!r}; expected one of {_STAGES}")
        if not record["epoch"] > before:
            raise SvdValueError(f"record {index} has epoch {record['epoch']} after {before}; epochs must increase")
        if set(record["sparsity"]) != layers:
            raise SvdValueError(
                f"record {index} has the layers {sorted(record['sparsity'])}; the first has {sorted(layers)}"
            )
        before = record["epoch"]


def check_log_alphas(log_alphas: Mapping[str, Array], threshold: float) -> None:
    """Raise a ValueError unless these log alphas and threshold can be drawn."""
    if not log_alphas:
        raise SvdValueError("log_alphas is empty; expected {layer name: array of log_alpha}, at least one layer")
    if not math.isfinite(threshold):
        raise SvdValueError(f"threshold is {threshold}; expected a finite number, such as 3.0")
    for name, log_alpha in log_alphas.items():
        if np.size(log_alpha) == 0 or np.isnan(log_alpha).any():
            raise SvdValueError(f"log_alpha of layer {name!r} is empty or holds NaN; expected an array of numbers")


def check_theta(theta: Array, image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the image shape as (C, H, W); raise a ValueError unless it fits theta."""
    theta = np.asarray(theta)
    if theta.ndim != 2 or theta.size == 0:
        raise SvdValueError(f"theta has shape {theta.shape}; expected a matrix (inputs, units)")
    if not np.isfinite(theta).all():
        raise SvdValueError("theta holds NaN or infinity; expected finite weights with zeros where pruned")
    shape = tuple(int(size) for size in image_shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or math.prod(shape) != theta.shape[0]:
        raise SvdValueError(
            f"image_shape {shape} does not fit theta with {theta.shape[0]} inputs; "
            "expected (H, W) or (C, H, W) whose product is the number of inputs"
        )
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]
