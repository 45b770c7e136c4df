"""Sequential: a stack of layers, their arena, one backend and one prior."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import (
    SvdTypeError,
    SvdValueError,
    check_count,
    check_finite,
    check_inputs,
    check_number,
    check_threshold,
    check_type,
)
from svd_numpy.kernels import get_backend, resolve_backend
from svd_numpy.kernels.priors import get_prior
from svd_numpy.kernels.window import channels_last
from svd_numpy.network.layers import layer_from_config
from svd_numpy.network.layers.activations import ReLU
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.layers.weighted import Variational
from svd_numpy.network.objective import Likelihood, make_likelihood
from svd_numpy.network.params import Arena, ParamSpec

Array = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])
EVAL_ROWS = 1000  # examples per pass where it is not training


def _exclusive(method: F) -> F:
    """Let one Python thread at a time into a method: layers keep their activations in their own buffers."""

    @wraps(method)
    def locked(self: Sequential, *args: Any, **kwargs: Any) -> Any:
        with self.exclusive:
            return method(self, *args, **kwargs)

    return locked  # type: ignore[return-value]


def require_finite(what: str, *arrays: Any) -> None:
    """Raise a ValueError where what the network computed is not finite."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise SvdValueError(
            f"{what} overflowed, expected finite numbers; scale inputs and targets to about 1, or mend the weights"
        )


def _input_shape(first: Layer, given: Any) -> tuple[int, ...]:
    """Shape of one input, from what the user gave or from the first layer."""
    features = getattr(first, "in_features", None)
    if given is None:
        if features is None:
            raise SvdValueError(
                f"Sequential: the first layer is {type(first).__name__}, which does not know the shape of its inputs; "
                "give input_shape=(C, H, W), for example (1, 28, 28)"
            )
        return (features,)
    shape = tuple(given) if isinstance(given, tuple | list) else (given,)
    if len(shape) not in (1, 3):
        raise SvdValueError(f"input_shape: got {given!r}, expected (I,), or (C, H, W) for images")
    return tuple(check_count("input_shape", size) for size in shape)


class Sequential:
    """A feed-forward network with Gaussian weights.

    Parameters
    ----------
    *layers : Layer
        Shapes are checked here, not in a kernel.
    prior : "log_uniform", "log_uniform_exact" or "ard"
        See `svd_numpy.kernels.priors`.
    backend : "auto", "cuda", "numba" or "numpy"
    dtype : "float32" or "float64"
        float64 needs backend "numpy".
    seed : int
        Of the first weights and of all noise.
    threshold : float
        A weight is pruned when its log_alpha exceeds this (Molchanov et al. 2017: 3).
    likelihood : "categorical", "gaussian" or a likelihood object
    input_mean : array (I,) or (C, H, W), optional
        Subtracted from every input; part of the model, so that `predict` takes raw data.
    input_shape : tuple of int, optional
        Shape of one input, (C, H, W) for images. Needed where the first layer does not say it (`in_features`).

    Attributes
    ----------
    parameters : dict of name -> array
        Writable views; whatever is written there is used from the next call on.

    Notes
    -----
    uint8 inputs are pixels: they are divided by 255 before `input_mean` is subtracted. Float inputs are taken
    as is.
    """

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
    ) -> None:
        if not layers:
            raise SvdValueError(
                "Sequential: got no layer, expected at least one, for example VariationalDense(784, 10)"
            )
        for layer in layers:
            if not isinstance(layer, Layer):
                raise SvdTypeError(f"Sequential: got {layer!r}, expected layers such as VariationalDense or ReLU")
        if len({id(layer) for layer in layers}) < len(layers):
            raise SvdValueError("Sequential: the same layer object appears twice; make one object per place")
        self.prior = get_prior(prior).name
        self.backend = get_backend(backend, dtype)
        self.dtype = self.backend.dtype
        self.seed = check_count("seed", seed, low=0)
        self.threshold = check_threshold("threshold", threshold)
        self.likelihood = make_likelihood(likelihood)
        self.layers = layers
        self.exclusive = threading.RLock()
        names = [layer.name for layer in layers]
        try:
            self._build(input_shape)
        except ValueError:
            for layer, name in zip(layers, names, strict=True):
                layer.name = name  # as its user made it
            raise
        self.input_mean = np.zeros(math.prod(self.in_shape), self.dtype)
        if input_mean is not None:
            self.input_mean[:] = check_finite("input_mean", np.ravel(input_mean), self.input_mean.shape)

    def _build(self, input_shape: Any) -> None:
        self.in_shape = _input_shape(self.layers[0], input_shape)
        # Images come and are kept channels first at the public edge, channels last inside.
        shape = (*self.in_shape[1:], self.in_shape[0]) if len(self.in_shape) == 3 else self.in_shape
        self.inner_shape = shape
        specs, counts = list[ParamSpec](), dict[str, int]()
        for index, layer in enumerate(self.layers):
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            layer.name = layer.name or f"{layer.kind}{counts[layer.kind]}"
            layer.index = index
            shape, wanted = layer.build(shape, np.random.default_rng([self.seed, index]))
            specs += wanted
        for layer, following in pairwise(self.layers):
            if isinstance(layer, Variational) and isinstance(following, ReLU):
                layer.relu = following.sampled = True
        names = [layer.name for layer in self.layers]
        if len(set(names)) < len(names):
            raise SvdValueError(f"Sequential: layer names are {names}, expected all different")
        if len(shape) > 1:
            raise SvdValueError(
                f"Sequential: the last layer {names[-1]!r} gives images {public_shape(shape)}, expected (B, outputs); "
                "end with Flatten, or with Flatten and a dense layer"
            )
        self.n_outputs = shape[0]
        self.arena = Arena(specs, self.dtype)
        for layer in self.layers:
            layer.bind(self.arena.views, self.arena.grad_views)
        self.parameters: dict[str, Array] = self.arena.views

    @property
    def variational_layers(self) -> list[Variational]:
        """Layers that have a log_sigma2, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Variational)]

    @property
    def state(self) -> dict[str, Array]:
        """Arrays of the layers that are no parameters (running averages), by name `<layer>.<array>`."""
        return {f"{layer.name}.{name}": array for layer in self.layers for name, array in layer.state().items()}

    @property
    def keep(self) -> float:
        """exp(-threshold): a weight survives where theta^2 >= keep * sigma^2."""
        return math.exp(-self.threshold)

    # ------------------------------------------------------------ passes, used by the training loop
    def to_device(self) -> None:
        """Let the backend see what the host wrote into `arrays()`; every public method begins with this."""
        self.backend.to_device(self.arena.params, self.input_mean, *self.state.values())

    def forward(self, x: Array, run: Pass) -> Array:
        """Run prepared inputs (B, *inner_shape) of the model's dtype through all layers; x may be overwritten."""
        for layer in self.layers:
            x = layer.forward(x, run)
        return x

    def backward(self, d_outputs: Array, run: Pass, want_dx: bool = False) -> Array | None:
        """Write the data gradients of one batch into the arena (log_sigma2's part holds d/dsigma2)."""
        d: Array | None = d_outputs
        for layer in reversed(self.layers):
            assert d is not None
            d = layer.backward(d, run, want_dx or layer is not self.layers[0])
        return d

    def prepare(self, x: Any, name: str = "x") -> Array:
        """Check raw inputs; scale, subtract the mean, in a fresh array (B, *inner_shape) of the model's dtype."""
        rows = check_inputs(name, x, self.in_shape)
        out = np.empty((len(rows), *self.inner_shape), self.dtype)
        scale = 1 / 255 if rows.dtype == np.uint8 else 1.0
        ready = rows.astype(self.dtype) * self.dtype.type(scale) - self.input_mean
        np.copyto(out, channels_last(ready, self.in_shape))
        return out

    # ------------------------------------------------------------ the public face
    @_exclusive
    def predict(self, x: Any) -> Array:
        """Outputs (B, O) of the pruned network: posterior means, zero above the threshold. Deterministic."""
        return self._evaluate(x, "pruned", 0)

    def predict_proba(self, x: Any) -> Array:
        """Class probabilities (B, C) of the pruned network (for regression: the predicted means)."""
        return self.likelihood.mean(self.predict(x))

    @_exclusive
    @np.errstate(over="ignore", invalid="ignore")
    def activations(self, x: Any) -> dict[str, Array]:
        """Output of every layer of the pruned network, by its name: (B, O), or (B, C, H, W) of images."""
        out, run = self.prepare(x), Pass(self.backend, "pruned", self.keep, self.seed)
        outputs = dict[str, Array]()
        self.to_device()
        for layer in self.layers:
            out = layer.forward(out, run)
            self.backend.to_host(out)
            outputs[layer.name] = (np.moveaxis(out, -1, 1) if out.ndim == 4 else out).copy()
        require_finite("the outputs", out)
        return outputs

    @_exclusive
    def sample(self, x: Any, n: int) -> Array:
        """Outputs of n networks drawn from the posterior, array (n, B, O). Same model, same samples."""
        n = check_count("n", n, high=2**16)
        # Training counts its steps up from 0; Monte Carlo counts down from the other end of the 32-bit range.
        return np.stack([self._evaluate(x, "sample", 2**32 - 1 - draw) for draw in range(n)])

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused at the end
    def _evaluate(self, x: Any, mode: Any, step: int) -> Array:
        x = check_inputs("x", x, self.in_shape)
        out = np.empty((len(x), self.n_outputs), self.dtype)
        keep = self.keep if mode == "pruned" else 0.0
        self.to_device()
        for start in range(0, len(x), EVAL_ROWS):
            run = Pass(self.backend, mode, keep, self.seed, step, start)
            batch = self.prepare(x[start : start + EVAL_ROWS])
            outputs = self.forward(batch, run)
            self.backend.to_host(outputs)
            out[start : start + len(batch)] = outputs
        require_finite("the outputs", out)
        return out

    def loss(self, x: Any, y: Any, n_train: int, kl_weight: float = 1.0, step: int = 0) -> float:
        """Mean NLL + kl_weight * KL / n_train of one batch, in nats per example.

        Parameters
        ----------
        x, y : arrays (B, ...), (B,) or (B, O)
        n_train : int
            Number of training examples (not of batches): the KL is shared among them.
        kl_weight : float
        step : int
            Names the noise: the same step gives the same noise, so that the loss is a function of the
            parameters.
        """
        return self.loss_and_grads(x, y, n_train, kl_weight, step)[0]

    @_exclusive
    @np.errstate(over="ignore", invalid="ignore")
    def loss_and_grads(
        self, x: Any, y: Any, n_train: int, kl_weight: float = 1.0, step: int = 0
    ) -> tuple[float, dict[str, Array]]:
        """The loss of `loss`, and its gradient for every array of `parameters` (same names; copies)."""
        n_train = check_count("n_train", n_train)
        kl_weight = check_number("kl_weight", kl_weight, low=0)
        step = check_count("step", step, low=0, high=2**32 - 1)
        batch = self.prepare(x)
        targets = self.likelihood.check(y, len(batch), self.n_outputs, self.dtype)
        run = Pass(self.backend, "sample", 0.0, self.seed, step, training=True)
        self.to_device()
        outputs = self.forward(batch, run)
        d_outputs = np.empty_like(outputs)
        nll, _ = self.likelihood.loss(self.backend, outputs, targets, d_outputs)
        self.backward(d_outputs, run)
        self.backend.finish_gradients(self.arena, self.prior, kl_weight / n_train, 0.0)
        self.backend.to_host(self.arena.grads)
        require_finite("the loss or its gradient", nll, self.arena.grads)
        grads = {name: grad.copy() for name, grad in self.arena.grad_views.items()}
        return nll / len(batch) + kl_weight * self.kl() / n_train, grads

    def kl(self) -> float:
        """KL of all weights from the prior, in nats."""
        layers = self.variational_layers
        self.to_device()
        return sum(self.backend.kl(layer.theta, layer.log_sigma2, self.prior) for layer in layers)

    def init_from(self, source: Mapping[str, Any] | Sequential) -> Sequential:
        """Start from given weights: copy every array whose name this model has.

        A plain network's arrays (`dense1.theta`, `dense1.bias`) fit a variational one: log_sigma2 keeps its
        start. Running averages (`batch_norm1.running_mean`) are taken over, too.

        Parameters
        ----------
        source : Sequential, or mapping of name -> array

        Raises
        ------
        ValueError, TypeError
            When nothing matches, or a shape differs, or a value is not finite; nothing is changed then.
        """
        arrays = {**source.parameters, **source.state} if isinstance(source, Sequential) else source
        check_type("init_from", arrays, Mapping)
        known = {**self.parameters, **self.state}
        own = {name: array for name, array in known.items() if name in arrays}
        if not own:
            raise SvdValueError(f"init_from: got {list(arrays)}, expected some of {list(known)}")
        matched = {name: check_finite(f"init_from: {name}", arrays[name], array.shape) for name, array in own.items()}
        for name, array in matched.items():
            if name.endswith(".log_sigma2") and not ((array >= -20) & (array <= 10)).all():
                raise SvdValueError(f"init_from: {name} goes from {array.min()} to {array.max()}, expected [-20, 10]")
            if name.endswith(".running_var") and (array < 0).any():
                raise SvdValueError(f"init_from: {name} goes down to {array.min()}, expected variances, 0 or more")
        for name, array in matched.items():
            known[name][...] = array
        return self

    # ------------------------------------------------------------ copies and files
    def config(self) -> dict[str, Any]:
        """All that is needed to build the same network again (JSON); the arrays are apart."""
        return {
            "layers": [layer.config() for layer in self.layers],
            "input_shape": list(self.in_shape),
            "prior": self.prior,
            "dtype": self.dtype.name,
            "seed": self.seed,
            "threshold": self.threshold,
            "likelihood": {"name": self.likelihood.name, **asdict(self.likelihood)},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], backend: str = "auto", dtype: Any = None) -> Sequential:
        """Build a network from `config`; the weights are fresh."""
        likelihood = make_likelihood(**config["likelihood"])
        layers = [layer_from_config(layer) for layer in config["layers"]]
        dtype = config["dtype"] if dtype is None else dtype
        if backend == "auto" and np.dtype(dtype) == np.float64:
            backend = "numpy"
        return cls(
            *layers, prior=config["prior"], backend=backend, dtype=dtype, seed=config["seed"],
            threshold=config["threshold"], likelihood=likelihood, input_shape=tuple(config["input_shape"]),
        )  # fmt: skip

    def copy(self, backend: str | None = None, dtype: Any = None) -> Sequential:
        """Return an independent copy, if wanted on another backend or in another dtype."""
        new = Sequential.from_config(self.config(), backend or self.backend.name, dtype)
        new.load_arrays(self.arrays())
        return new

    def arrays(self) -> dict[str, Array]:
        """Every array that belongs to the network: parameters, states of layers and `input_mean`."""
        return {**self.parameters, **self.state, "input_mean": self.input_mean}

    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Fill parameters, states and `input_mean` from `arrays()` of a network of the same shape."""
        own = self.arrays()
        if set(own) != set(arrays):
            raise SvdValueError(f"load_arrays: got arrays {sorted(arrays)}, expected {sorted(own)}")
        for name, array in own.items():
            if np.shape(arrays[name]) != array.shape:
                raise SvdValueError(f"load_arrays: {name} has shape {np.shape(arrays[name])}, expected {array.shape}")
        for name, array in own.items():
            array[...] = arrays[name]

    def save(self, path: str | Path) -> None:
        """Write the network to one self-contained, checksummed `.safetensors` file, atomically."""
        from svd_numpy.files.safe_arrays import save_model

        save_model(path, self.arrays(), self.config())

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> Sequential:
        """Read a network written by `save`; a damaged file, or another kind, raises `CheckpointError`."""
        from svd_numpy.files.safe_arrays import CheckpointError, load_model

        resolve_backend(backend)
        arrays, config = load_model(path)
        try:
            model = cls.from_config(config, backend)
            model.load_arrays(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no network that Sequential.save wrote: {error!r}") from error
        return model

    def summary(self) -> str:
        """Table of the layers: name, shape, weights."""
        width = max(10, *(len(layer.name) + 2 for layer in self.layers))
        lines = [f"{'layer':<{width}}{'type':<20}{'weights':>18}"]
        for layer in self.layers:
            theta = self.parameters.get(f"{layer.name}.theta")
            size = " x ".join(map(str, theta.shape)) if theta is not None else ""
            lines.append(f"{layer.name:<{width}}{type(layer).__name__:<20}{size:>18}")
        total = sum(a.size for name, a in self.parameters.items() if name.endswith(".theta"))
        return "\n".join([*lines, f"{total:,} weights, prior {self.prior}, backend {self.backend.name}"])
