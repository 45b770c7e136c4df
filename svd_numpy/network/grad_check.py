"""Compare hand-written gradients with numeric ones: `gradcheck`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_count, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers import Conv2d, Dense, Flatten, Layer
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.model import Sequential

# Half the width of a central difference. A probe that does not look smooth at one width is repeated at the next: that
# leaves a kink further off out of reach, and the KL of a weight with a tiny sigma is smooth only at small widths.
WIDTHS = (1e-4, 1e-5, 1e-6)
_TOLERANCE = {"float64": 1e-6, "float32": 2e-3}


@dataclass(frozen=True)
class Row:
    """The verdict on one array.

    Attributes
    ----------
    name : str
        As in `Sequential.parameters`; "x" for the inputs.
    checked, kinks : int
        Probes (single entries, and one random direction) that were compared, and those left out at a kink.
    numeric, analytic : float
        The two derivatives of the probe for which they differ most.
    error : float
        ||analytic - numeric|| / max(||analytic||, ||numeric||, floor) over all probes compared.
    ok : bool
        Whether any probe could be compared, and the error is at most the tolerance.
    """

    name: str
    checked: int
    kinks: int
    numeric: float
    analytic: float
    error: float
    ok: bool


@dataclass(frozen=True)
class GradCheck:
    """What `gradcheck` found; printing it shows a table.

    Attributes
    ----------
    rows : tuple of Row
        One per array, the inputs last.
    tolerance : float
    """

    rows: tuple[Row, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every array passed."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        """Return the table."""
        width = max(len(row.name) for row in self.rows)
        head = f"{'array':<{width}}  checked  kinks      numeric     analytic  rel. error"
        lines = [f"{head}  verdict (<= {self.tolerance:g})"]
        for r in self.rows:
            counts, values = f"{r.checked:7}  {r.kinks:5}", f"{r.numeric:11.4e}  {r.analytic:11.4e}"
            verdict = "ok" if r.ok else "WRONG" if r.checked else "only kinks"
            lines.append(f"{r.name:<{width}}  {counts}  {values}  {r.error:10.1e}  {verdict}")
        return "\n".join(lines)

    __repr__ = __str__


def gradcheck(
    layer_or_model: Layer | Sequential,
    x: Any,
    y: Any = None,
    *,
    n_train: int | None = None,
    kl_weight: float = 1.0,
    step: int = 0,
    samples: int = 24,
    tolerance: float | None = None,
) -> GradCheck:
    """Check the hand-written gradients of a layer or a model against finite differences of its loss.

    The rules of gradient checking, which this function follows for you where it can:

    * Central differences, (L(p + h) - L(p - h)) / 2h: one-sided ones err by h, these by h^2.
      Two of them, with h and h / 2, are combined so that the h^2 terms cancel.
    * In float64. In float32 the rounding of the loss drowns the difference, so a float32 model is compared
      with the numeric gradient of a float64 copy of itself.
    * With fixed noise, not with the noise off. The same `step` draws the same noise, so the loss is an
      ordinary function of the parameters; and derivatives through the noise are the easiest to get wrong.
    * With few examples and few entries. A ReLU has a kink: if a probe pushes a unit across it, the numeric
      derivative averages two slopes and means nothing. The more examples, the more kinks. Such probes are
      detected (their differences disagree), repeated with smaller h, and if that fails left out and counted.
    * Every array, and in each also one random direction, which involves the entries that are not sampled.
    * Relative errors of whole arrays, not of entries: a tiny entry may be far off without meaning anything.
    * Not only at the start. Many mistakes do not show while all biases are 0 and all variances equal: check a
      model after some training steps (a layer alone is checked at a random point).
    * Also the NLL alone (`kl_weight=0`): a large KL gradient can hide a small one that is wrong.

    Parameters
    ----------
    layer_or_model : Layer or Sequential
        A model is checked with its own likelihood. A layer is made again from `layer.config()` and checked in
        float64 inside a model of its own, with Gaussian likelihood; one without `in_features` (`in_channels`) gets
        a `Dense` (`Conv2d`) before it. The check works on copies and never changes its argument.
    x : array (B, I) or (B, C, H, W)
        A few examples; uint8 or floats as in `Sequential.predict`.
    y : array, optional
        Labels (B,) or targets (B, O). A model needs them; for a layer alone, the default is random targets.
    n_train : int, optional
        Number of training examples that share the KL; default B.
    kl_weight : float
    step : int
        Selects the noise.
    samples : int
        How many entries of each array are probed (all, if it has fewer).
    tolerance : float, optional
        Largest relative error; default 1e-6 for float64, 2e-3 for float32.

    Returns
    -------
    GradCheck
        Print it; `.ok` is the verdict, `.rows` the numbers. The last row, "x", is d(loss)/dx for the inputs
        after scaling and subtracting the mean.

    Raises
    ------
    TypeError, ValueError
        For anything but a layer or a model, for inputs or targets that do not fit, and for a layer that cannot
        be made again from its `config()`.

    Notes
    -----
    Derivatives that differ by less than the rounding error of a difference, about 1e-15 |loss| / h, cannot be told
    apart. The floor in the relative error is that number over the tolerance, so that gradients of 0 pass.

    Examples
    --------
    >>> import numpy as np
    >>> from svd_numpy import VariationalDense, gradcheck
    >>> gradcheck(VariationalDense(5, 3), np.random.default_rng(0).normal(size=(7, 5))).ok
    True
    """
    model = _subject(layer_or_model, x)
    samples = check_count("samples", samples)
    n_train = None if n_train is None else check_count("n_train", n_train)
    kl_weight = check_number("kl_weight", kl_weight, low=0)
    step = check_count("step", step, low=0)
    default = _TOLERANCE[model.dtype.name]
    tolerance = default if tolerance is None else check_number("tolerance", tolerance, low=1e-14, high=1)
    batch = model.prepare(x)
    if y is None and isinstance(layer_or_model, Sequential):
        raise SvdValueError("y: got None, expected the labels or targets that belong to x: a model's loss needs them")
    if y is None:
        y = np.random.default_rng(1).standard_normal((len(batch), model.n_outputs))
    kl_scale = kl_weight / (len(batch) if n_train is None else n_train)

    analytic = _analytic(model, batch, y, kl_scale, step)
    oracle = _clone(model, "numpy", "float64")
    tokens = model.layers[0].takes_tokens is not None  # there is no derivative for those
    inputs = batch if tokens else batch.astype(np.float64)
    run = Pass(oracle.backend, seed=oracle.seed, step=step, training=True)
    targets = oracle.check_targets(y, len(inputs))
    d_outputs = np.empty((len(inputs), *oracle.out_shape))

    def loss(kl_scale: float) -> float:
        outputs = oracle.forward(inputs.copy(), run)
        nll, _ = oracle.likelihood.loss(oracle.backend, outputs, targets, d_outputs)
        return nll / oracle.rows(len(inputs)) + (kl_scale * oracle.kl() if kl_scale else 0.0)

    rows = [
        _check_array(name, array, analytic[name], lambda: loss(kl_scale), samples, tolerance)
        for name, array in oracle.parameters.items()
    ]
    if not tokens:
        nll_only = 0.0  # the KL does not depend on x
        rows.append(_check_array("x", inputs, analytic["x"], lambda: loss(nll_only), samples, tolerance))
    return GradCheck(tuple(rows), tolerance)


def _subject(given: Any, x: Any) -> Sequential:
    """Make an independent model to check: a copy of the given model, or one built around the given layer."""
    if isinstance(given, Sequential):
        return _clone(given, given.backend.name, given.dtype)
    if not isinstance(given, Layer):
        raise SvdTypeError(
            f"gradcheck: got {given!r}, expected a layer such as VariationalDense(5, 3), or a Sequential"
        )
    layers = [_again(given)]
    shape = np.shape(x)
    if len(shape) not in (2, 4) or 0 in shape:
        kind = type(given).__name__
        raise SvdValueError(f"x: got shape {shape}, expected (B, I), or images (B, C, H, W), for layer {kind}")
    if len(shape) == 4:
        if not hasattr(given, "in_channels"):  # so that the layer's inputs depend on parameters
            layers.insert(0, Conv2d(shape[1], shape[1], 1))
        layers.append(Flatten())
    elif not hasattr(given, "in_features"):
        layers.insert(0, Dense(shape[1], shape[1]))
    model = Sequential(*layers, backend="numpy", dtype="float64", likelihood="gaussian", input_shape=shape[1:])
    rng = np.random.default_rng(0)
    # Move away from the start, where all biases are 0 and all variances equal.
    for name, array in model.parameters.items():
        array[...] = np.clip(array + 0.1 * rng.standard_normal(array.shape), *model.arena.bounds_of(name))
    return model


def _again(layer: Layer) -> Layer:
    """Make a new, unbuilt layer with the same configuration, including layers of the user's own classes."""
    options = dict(layer.config())
    options.pop("type", None)
    try:
        return type(layer)(**options)
    except TypeError as error:
        raise SvdValueError(
            f"layer {type(layer).__name__} cannot be made again from its config() {options}: {error}; "
            "let config() return every argument of its constructor"
        ) from error


def _clone(model: Sequential, backend: str, dtype: Any) -> Sequential:
    clone = Sequential(
        *[_again(layer) for layer in model.layers],
        prior=model.prior,
        backend=backend,
        dtype=dtype,
        seed=model.seed,
        threshold=model.threshold,
        input_shape=model.in_shape,
        input_columns=model.input_columns,
        likelihood=model.likelihood,
    )
    clone.load_arrays(model.arrays())
    return clone


def _analytic(model: Sequential, batch: Array, y: Any, kl_scale: float, step: int) -> dict[str, Array]:
    """Run `backward`: gradients by name, those for inputs that have any as "x"."""
    run = Pass(model.backend, seed=model.seed, step=step, training=True)
    model.to_device()
    outputs = model.forward(batch.copy(), run)
    d_outputs = np.empty_like(outputs)
    targets = model.check_targets(y, len(batch))
    model.likelihood.loss(model.backend, outputs, targets, d_outputs)
    dx = model.backward(d_outputs, run, want_dx=True, kl_scale=kl_scale)
    model.backend.finish_gradients(model.arena, kl_scale, 0.0)
    of_inputs = {} if dx is None else {"x": dx}
    model.backend.to_host(model.arena.grads, *of_inputs.values())
    return {name: grad.copy() for name, grad in {**model.arena.grad_views, **of_inputs}.items()}


def _probes(array: Array, samples: int) -> Iterator[Array]:
    """Yield directions of length 1, shaped like the array: some single entries, and a random one."""
    rng = np.random.default_rng([array.size, samples])
    for at in rng.choice(array.size, min(samples, array.size), replace=False):
        entry = np.zeros(array.size)
        entry[at] = 1
        yield entry.reshape(array.shape)
    direction = rng.standard_normal(array.shape)
    yield direction / np.linalg.norm(direction)


def _check_array(
    name: str, array: Array, gradient: Array, loss: Callable[[], float], samples: int, tolerance: float
) -> Row:
    """Probe one array in place, and restore it."""
    probes = list(_probes(array, samples))
    a = np.array([(gradient * probe).sum(dtype=np.float64) for probe in probes])
    n, doubt, smooth, floor = np.zeros(len(probes)), np.zeros(len(probes)), np.zeros(len(probes), bool), 0.0
    for h in WIDTHS:
        again = np.flatnonzero(~smooth)
        if not again.size:
            break
        for i in again:
            n[i], doubt[i] = _slope(array, probes[i], h, loss)
        rounding = 1e-15 * (1 + abs(loss())) / h
        smooth |= doubt <= max(0.1 * tolerance * np.abs(n).max(), 10 * rounding)
        floor = rounding / tolerance
    kinks = int(np.count_nonzero(~smooth))
    if kinks == len(probes):
        return Row(name, 0, kinks, np.nan, np.nan, np.nan, False)
    n, a = n[smooth], a[smooth]
    error = float(np.linalg.norm(a - n)) / max(float(np.linalg.norm(a)), float(np.linalg.norm(n)), floor)
    worst = int(np.argmax(np.abs(a - n)))
    return Row(name, len(n), kinks, float(n[worst]), float(a[worst]), error, error <= tolerance)


def _slope(array: Array, probe: Array, h: float, loss: Callable[[], float]) -> tuple[float, float]:
    """Return the derivative along `probe` at scale h, and by how much its estimates disagree.

    On a smooth function the central differences with h and h / 2 agree to order h^2, and the jump between the
    two one-sided differences halves with h. Across a kink the central differences disagree, unless it is exactly
    in the middle; then the jump does not shrink.
    """
    start = array.copy()
    losses = []
    for shift in (h, h / 2, 0.0, -h / 2, -h):
        array[...] = start + shift * probe
        losses.append(loss())
    array[...] = start
    far, near, middle, near_back, far_back = losses
    wide, narrow = (far - far_back) / (2 * h), (near - near_back) / h
    jump_wide, jump_narrow = (far - 2 * middle + far_back) / h, 2 * (near - 2 * middle + near_back) / h
    return (4 * narrow - wide) / 3, max(abs(wide - narrow), abs(jump_narrow - jump_wide / 2))
