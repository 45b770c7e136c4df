"""Layers bound to one arena, and passes through them: shared by training, scoring and the public model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from svd_numpy.checks import (
    SvdTypeError,
    SvdValueError,
    as_array,
    check_count,
    check_finite,
    check_indices,
    check_inputs,
    check_threshold,
    check_tokens,
    check_type,
)
from svd_numpy.data.csr import as_csr, dense, is_sparse
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.kernels.cpu.lock import ForkSafeLock
from svd_numpy.kernels.priors import get_prior
from svd_numpy.kernels.stack import Rows
from svd_numpy.kernels.window import channels_last
from svd_numpy.network.closed import close
from svd_numpy.network.layers.activations import ReLU
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.layers.weighted import LocallySampled, Variational
from svd_numpy.network.objective import Likelihood, make_likelihood
from svd_numpy.network.params import Arena, ParamSpec
from svd_numpy.network.stacked import Stacked, stacked

F = TypeVar("F", bound=Callable[..., Any])
EVAL_ROWS = 1000  # examples per pass outside training


def exclusive(method: F) -> F:
    """Allow one Python thread at a time in a method, because layers keep activations in their own buffers."""

    @wraps(method)
    def locked(self: Network, *args: Any, **kwargs: Any) -> Any:
        with self.exclusive:
            return method(self, *args, **kwargs)

    return locked  # type: ignore[return-value]


def require_finite(what: str, *arrays: Any) -> None:
    """Raise a ValueError if a result of the network is not finite."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise SvdValueError(
            f"{what} overflowed, expected finite numbers; scale inputs and targets to about 1, or repair the weights"
        )


def _input_shape(first: Layer, given: Any) -> tuple[int, ...]:
    """Shape of one input, as given by the user or by the first layer."""
    features = getattr(first, "in_features", None) if first.takes_tokens is None else None
    if given is None:
        if features is None:
            raise SvdValueError(
                f"Sequential: the first layer is {type(first).__name__}, which does not know the shape of its inputs; "
                "give input_shape=(C, H, W), for example (1, 28, 28), (I,) for rows of I numbers, or (T,) for T tokens"
            )
        return (features,)
    shape = tuple(given) if isinstance(given, tuple | list) else (given,)
    if len(shape) not in (1, 2, 3):
        raise SvdValueError(f"input_shape: got {given!r}, expected (I,), (T, I) for sequences, or (C, H, W) for images")
    return tuple(check_count("input_shape", size) for size in shape)


def _original(given: Any) -> dict[str, tuple[int, int]]:
    """Counts of weights and units by layer, as given by the user or by a file."""
    check_type("original", given, Mapping)
    for counts in given.values():
        if not isinstance(counts, list | tuple) or len(counts) != 2:
            raise SvdTypeError(f"original: got {counts!r}, expected (weights, units) for each layer")
    return {
        name: (check_count("original", a, low=0), check_count("original", b, low=0)) for name, (a, b) in given.items()
    }


def inner_shape(in_shape: tuple[int, ...], columns: Sequence[int] | Array | None) -> tuple[int, ...]:
    """Shape of one input as the first layer sees it; images are channels first in the public API, last inside."""
    shape = in_shape if columns is None else (len(columns),)
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


class Network:
    """Base class of `network.model.Sequential`, where the arguments are documented."""

    def __init__(
        self,
        *layers: Layer,
        prior: str = "log_uniform",
        backend: str = "auto",
        dtype: Any = "float32",
        seed: int = 0,
        threshold: float = 3.0,
        likelihood: str | Likelihood = "categorical",
        input_mean: Any = None,
        input_shape: tuple[int, ...] | None = None,
        input_columns: Any = None,
        original: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if not layers:
            raise SvdValueError(
                "Sequential: got no layer, expected at least one, for example VariationalDense(784, 10)"
            )
        for layer in layers:
            if not isinstance(layer, Layer):
                raise SvdTypeError(f"Sequential: got {layer!r}, expected layers such as VariationalDense or ReLU")
            if layer.built:
                raise SvdValueError(
                    f"Sequential: layer {layer.name!r} already belongs to a model, which would change "
                    "with this one; make a new layer, or copy the model (Sequential.copy)"
                )
        if len({id(layer) for layer in layers}) < len(layers):
            raise SvdValueError("Sequential: the same layer object appears twice; make one object per place")
        self.prior = get_prior(prior).name
        self.backend = get_backend(backend, dtype)
        self.dtype = self.backend.dtype
        self.seed = check_count("seed", seed, low=0)
        self.threshold = check_threshold("threshold", threshold)
        self.likelihood = make_likelihood(likelihood)
        self.layers = layers
        self.exclusive = ForkSafeLock()
        self.fitting = False  # set by `fit`, so that a second one is refused
        self.in_shape = _input_shape(layers[0], input_shape)
        self.input_columns = None if input_columns is None else check_indices(
            "input_columns", input_columns, self.in_shape[0] if len(self.in_shape) == 1 else 0
        )  # fmt: skip
        names = [layer.name for layer in layers]
        try:
            self._build()
        except ValueError:
            for layer, name in zip(layers, names, strict=True):
                layer.name = name  # as the user gave it
            raise
        self.original = _original({} if original is None else original)
        self.input_mean = np.zeros(math.prod(self.inner_shape), self.dtype)
        if input_mean is not None:
            self.input_mean[:] = check_finite(
                "input_mean", as_array("input_mean", input_mean).ravel(), self.input_mean.shape
            )

    def _build(self) -> None:
        shape = self.inner_shape = inner_shape(self.in_shape, self.input_columns)
        specs, counts = list[ParamSpec](), dict[str, int]()
        for index, layer in enumerate(self.layers):
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            layer.name = layer.name or f"{layer.kind}{counts[layer.kind]}"
            layer.index, layer.in_shape = index, shape
            if layer.needs_recurrence and self.backend.recurrence is None:
                raise SvdValueError(
                    f"layer {layer.name!r}: the backend {self.backend.name!r} has no {type(layer).__name__} yet; take "
                    "backend='numba' or 'numpy'"
                )
            shape, wanted = layer.build(shape, np.random.default_rng([self.seed, index]))
            layer.out_shape = shape
            specs += wanted
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise SvdValueError(f"Sequential: layer names are {names}, expected all different")
        if len(shape) > 2:
            raise SvdValueError(
                f"Sequential: the last layer {names[-1]!r} gives images {public_shape(shape)}, expected (B, outputs); "
                "end with Flatten, or with Flatten and a dense layer"
            )
        self.out_shape, self.n_outputs = shape, shape[-1]
        self.arena = Arena(specs, self.dtype, self.prior)
        self.parameters: dict[str, Array] = self.arena.views
        for layer, following in zip(self.layers, (*self.layers[1:], None), strict=True):
            if isinstance(layer, LocallySampled) and isinstance(following, ReLU):
                layer.relu = following.sampled = True
            layer.bind(self.arena.views, self.arena.grad_views)
            layer.built = True
        self._passes = stacked(self.layers, self.backend)

    @property
    def variational_layers(self) -> list[Variational]:
        """Layers that have a log_sigma2, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Variational)]

    @property
    def state(self) -> dict[str, Array]:
        """Arrays of the layers that are not parameters (running averages), by name `<layer>.<array>`."""
        return {f"{layer.name}.{name}": array for layer in self.layers for name, array in layer.state().items()}

    @property
    def works_on_host(self) -> bool:
        """Whether a layer does a part of every step on the host; then no other run may share its launches on a GPU.

        It does if it adds to the KL and its gradients itself, or if it is recurrent.
        """
        adds = (type(layer).add_kl_gradients is not Layer.add_kl_gradients for layer in self.layers)
        return any(adds) or any(layer.needs_recurrence for layer in self.layers)

    @property
    def keep(self) -> float:
        """exp(-threshold): a weight survives where theta^2 >= keep * sigma^2."""
        return math.exp(-self.threshold)

    # ------------------------------------------------------------ passes, used by the training loop
    def to_device(self) -> None:
        """Make what the host wrote into `arrays()` visible to the backend; public methods do so before they compute."""
        self.backend.to_device(self.arena.params, self.input_mean, *self.state.values())

    def forward(self, x: Array, run: Pass) -> Array:
        """Run prepared inputs (B, *inner_shape) of `input_dtype` through all layers; x may be overwritten."""
        for layer in self._passes:
            x = layer.forward(x, run)
        return x

    def forward_rows(self, rows: Rows, moves: Array | None, out: Array, run: Pass) -> Array:
        """Gather a batch into `out` (`Backend.gather_rows`) and run it; a stack in front gathers by itself.

        `out` holds the examples in the shape in which they are moved, which may be images of flat inputs.
        """
        first = self._passes[0]
        if moves is None and not run.masks and isinstance(first, Stacked):
            x = first.forward(rows, run)
            for layer in self._passes[1:]:
                x = layer.forward(x, run)
            return x
        run.backend.gather_rows(*rows, out, moves)
        return self.forward(out.reshape(len(out), *self.inner_shape), run)

    def backward(self, d_outputs: Array, run: Pass, want_dx: bool = False, kl_scale: float = 0.0) -> Array | None:
        """Write the data gradients of one batch into the arena (log_sigma2's part holds d/dsigma2).

        Layers with a KL of their own add its gradients, times kl_scale.
        """
        d: Array | None = d_outputs
        first, *others = self._passes
        spared = not want_dx and bool(others) and isinstance(first, Layer) and first.needs_no_dy(others[0], run)
        for layer in reversed(others):
            assert d is not None
            d = layer.backward(d, run, not spared or layer is not others[0])
            layer.add_kl_gradients(run.backend, kl_scale)
        if isinstance(first, Layer) and spared:
            first.backward_from(others[0], run)
        else:
            assert d is not None
            d = first.backward(d, run, want_dx)
        first.add_kl_gradients(run.backend, kl_scale)
        return d

    def first_states(self, sequences: int) -> dict[str, Array]:
        """States in which so many sequences begin, for `Pass.carried`: {name of a recurrent layer: array of 0}."""
        found = ((layer.name, layer.first_state(sequences)) for layer in self.layers)
        return {name: state for name, state in found if state is not None}

    def alive(self, threshold: float | None = None) -> dict[str, Array]:
        """Which weights survive a threshold on log_alpha (default: the model's), as {layer name: bool array (I, O)}."""
        threshold = self.threshold if threshold is None else check_threshold("threshold", threshold)
        found = ((layer.name, layer.alive(threshold)) for layer in self.layers)
        alive = {name: weights for name, weights in found if weights is not None}
        close(self.layers, alive)
        return alive

    def pruned_pass(self, backend: Backend) -> Pass:
        """Return a pass through the network pruned at its threshold, with the means of the surviving weights."""
        masks = dict[str, Array]()
        for layer in self.variational_layers:
            alive = layer.alive(self.threshold)
            masks[layer.name] = layer.memory.get("alive", alive.shape, np.uint8)
            masks[layer.name][:] = alive
        backend.to_device(*masks.values())
        return Pass(backend, "mean", seed=self.seed, masks=masks)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Dtype that the first layer reads: the model's, or int64 for tokens."""
        return self.dtype if self.layers[0].takes_tokens is None else np.dtype(np.int64)

    def check(self, x: Any, name: str = "x") -> Array:
        """Return raw inputs as rows (B, inputs) of uint8, floats or tokens, with only the columns that are read.

        A sparse matrix stays sparse.
        """
        tokens = self.layers[0].takes_tokens
        if tokens is not None:
            return check_tokens(name, x, self.in_shape, tokens)
        rows = self._sparse_rows(name, x) if is_sparse(x) else check_inputs(name, x, self.in_shape)
        return rows if self.input_columns is None else rows[:, self.input_columns]

    def _sparse_rows(self, name: str, x: Any) -> Any:
        """Return a sparse matrix as CSR rows (B, inputs) of the model's dtype."""
        rows, size = as_csr(name, x), math.prod(self.in_shape)
        if rows.shape[1] != size:
            raise SvdValueError(f"{name}: got shape {rows.shape}, expected (B, {size})")
        return rows.astype(self.dtype, copy=False)

    def prepare(self, x: Any, name: str = "x") -> Array:
        """Check and scale raw inputs, subtract the mean; return a new array (B, *inner_shape) of `input_dtype`."""
        return self._prepared(self.check(x, name))

    def _prepared(self, rows: Array) -> Array:
        rows = dense(rows)
        out = np.empty((len(rows), *self.inner_shape), self.input_dtype)
        if self.layers[0].takes_tokens is not None:
            out[:] = rows
            return out
        scale = 1 / 255 if rows.dtype == np.uint8 else 1.0
        ready = rows.astype(self.dtype) * self.dtype.type(scale) - self.input_mean
        np.copyto(out, channels_last(ready, self.in_shape) if len(self.in_shape) == 3 else ready.reshape(out.shape))
        return out

    def rows(self, examples: int) -> int:
        """Number of outputs for this many examples: one each, or one for each step of a sequence."""
        return examples * math.prod(self.out_shape[:-1])

    def check_targets(self, y: Any, examples: int) -> Array:
        """Return labels (B,) or targets (B, O) of this many examples; if outputs are sequences, (B, T) or (B, T, O)."""
        return self.likelihood.check(y, (examples, *self.out_shape[:-1]), self.n_outputs, self.dtype)
