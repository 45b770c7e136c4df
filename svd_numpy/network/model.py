"""`Sequential`: a stack of layers with one arena and one backend, and its public methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import (
    SvdTypeError,
    SvdValueError,
    as_array,
    check_count,
    check_finite,
    check_number,
    check_some,
    check_type,
)
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.living import Living
from svd_numpy.network.core import EVAL_ROWS, Network, exclusive, require_finite
from svd_numpy.network.layers import layer_from_config
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.objective import make_likelihood


class Sequential(Network):
    """A feed-forward network with Gaussian weights.

    Parameters
    ----------
    *layers : Layer
        From input to output. Their shapes are checked here.
    prior : "log_uniform", "log_uniform_exact", "ard", "normal" or a name given to `add_prior`
        See `svd_numpy.kernels.priors`.
    backend : "auto", "cuda", "numba", "numpy" or a name given to `add_backend`
    dtype : "float32" or "float64"
        Of the built-in backends, only "numpy" supports float64.
    seed : int
        Seed of the initial weights and of all noise.
    threshold : float
        A weight is pruned when its log_alpha exceeds this (Molchanov et al. 2017: 3).
    likelihood : "categorical", "gaussian" or a likelihood object
    input_mean : array (I,), (T, I) or (C, H, W), optional
        Subtracted from every input; part of the model, so that `predict` takes raw data.
    input_shape : tuple of int, optional
        Shape of one input: (I,), (T, I) for sequences, (C, H, W) for images, (T,) for tokens if the first layer takes
        them. Needed unless it is (I,) with I the `in_features` of the first layer.
    input_columns : array of int, optional
        Which of the inputs (I,) are read (`take`); default: all.
    original : mapping of layer name -> (weights, units), optional
        Counts from before `take` made the model smaller, so that sparsity is measured against the original network.

    Attributes
    ----------
    parameters : dict of name -> array
        Writable views; whatever is written there is used from the next call on.
    exclusive : lock
        Held by public methods while they use the layers, and by training for the duration of a step, because layers
        keep activations in their own buffers.

    Notes
    -----
    uint8 inputs are pixels: they are divided by 255 before `input_mean` is subtracted. Float inputs are taken
    as is.
    """

    # ------------------------------------------------------------ the public face
    @exclusive
    def predict(self, x: Any) -> Array:
        """Outputs (B, O) of the pruned network: posterior means, zero above the threshold. Deterministic.

        No examples give no outputs: an array (0, O).
        """
        self.to_device()
        return self._evaluate(x, self.pruned_pass(self.backend))

    def predict_proba(self, x: Any) -> Array:
        """Class probabilities (B, C) of the pruned network (for regression: the predicted means)."""
        return self.likelihood.mean(self.predict(x))

    @exclusive
    @np.errstate(over="ignore", invalid="ignore")
    def activations(self, x: Any) -> dict[str, Array]:
        """Output of every layer of the pruned network, by its name: (B, O), or (B, C, H, W) for images."""
        outputs = dict[str, Array]()
        self.to_device()
        out, run = self.prepare(x), self.pruned_pass(self.backend)
        check_some("x", out)
        for layer in self.layers:
            out = layer.forward(out, run)
            self.backend.to_host(out)
            outputs[layer.name] = (np.moveaxis(out, -1, 1) if out.ndim == 4 else out).copy()
        require_finite("the outputs", out)
        return outputs

    @exclusive
    def sample(self, x: Any, n: int) -> Array:
        """Outputs of n networks drawn from the posterior, array (n, B, O). Same model, same samples."""
        n = check_count("n", n, high=2**16)
        self.to_device()
        # Training counts its steps up from 0; Monte Carlo counts down from the other end of the 32-bit range.
        steps = (2**32 - 1 - draw for draw in range(n))
        return np.stack([self._evaluate(x, Pass(self.backend, seed=self.seed, step=step)) for step in steps])

    @np.errstate(over="ignore", invalid="ignore")  # an overflow raises at the end
    def _evaluate(self, x: Any, run: Pass) -> Array:
        x = self.check(x)
        out = np.empty((x.shape[0], *self.out_shape), self.dtype)
        for start in range(0, x.shape[0], EVAL_ROWS):
            run.first_sample = start
            batch = self._prepared(x[start : start + EVAL_ROWS])
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
            Number of training examples (not batches), among which the KL is shared.
        kl_weight : float
        step : int
            Selects the noise: the same step gives the same noise, so the loss is a function of the parameters.
        """
        return self.loss_and_grads(x, y, n_train, kl_weight, step)[0]

    @exclusive
    @np.errstate(over="ignore", invalid="ignore")
    def loss_and_grads(
        self, x: Any, y: Any, n_train: int, kl_weight: float = 1.0, step: int = 0
    ) -> tuple[float, dict[str, Array]]:
        """The loss of `loss`, and its gradient for every array of `parameters` (same names; copies)."""
        n_train = check_count("n_train", n_train)
        kl_weight = check_number("kl_weight", kl_weight, low=0)
        step = check_count("step", step, low=0, high=2**32 - 1)
        batch = self.prepare(x)
        check_some("x", batch)
        targets = self.check_targets(y, len(batch))
        run = Pass(self.backend, seed=self.seed, step=step, training=True)
        self.to_device()
        outputs = self.forward(batch, run)
        d_outputs = np.empty_like(outputs)
        nll, _ = self.likelihood.loss(self.backend, outputs, targets, d_outputs)
        self.backward(d_outputs, run, kl_scale=kl_weight / n_train)
        self.backend.finish_gradients(self.arena, kl_weight / n_train, 0.0)
        self.backend.to_host(self.arena.grads)
        require_finite("the loss or its gradient", nll, self.arena.grads)
        grads = {name: grad.copy() for name, grad in self.arena.grad_views.items()}
        return nll / self.rows(len(batch)) + kl_weight * self.kl() / n_train, grads

    @exclusive
    def kl(self) -> float:
        """KL of all weights from their priors, in nats."""
        self.to_device()
        params, total = self.arena.params, 0.0
        for segment in self.arena.segments:
            if segment.prior:
                size = segment.stop - segment.start
                theta, log_sigma2 = (params[at : at + size] for at in (segment.start, segment.log_sigma2))
                total += self.backend.kl(theta, log_sigma2, segment.prior)
        return total + sum(layer.kl(self.backend) for layer in self.layers)

    @exclusive
    def init_from(self, source: Mapping[str, Any] | Sequential) -> Sequential:
        """Start from given weights: copy every array whose name this model has.

        The arrays of a plain network (`dense1.theta`, `dense1.bias`) fit a variational one, whose log_sigma2 then stays
        as it is. Running averages (`batch_norm1.running_mean`) are copied, too.

        Parameters
        ----------
        source : Sequential, or mapping of name -> array

        Raises
        ------
        ValueError, TypeError
            If nothing matches, a shape differs or a value is not finite; nothing has changed then.
        """
        arrays = {**source.parameters, **source.state} if isinstance(source, Sequential) else source
        check_type("init_from", arrays, Mapping)
        known = {**self.parameters, **self.state}
        own = {name: array for name, array in known.items() if name in arrays}
        if not own:
            raise SvdValueError(f"init_from: got {list(arrays)}, expected some of {list(known)}")
        matched = dict[str, Array]()
        for name, array in own.items():
            given = as_array(f"init_from: {name}", arrays[name])
            if given.dtype == np.float16:  # in which every number, infinity too, counts as at most LARGEST_INPUT
                given = given.astype(np.float32)
            matched[name] = check_finite(f"init_from: {name}", given, array.shape)
            self._check_bounds("init_from", name, given)
        for name, array in matched.items():
            known[name][...] = array
        return self

    # ------------------------------------------------------------ copies and files
    def config(self) -> dict[str, Any]:
        """Everything needed to build the same network again except its arrays, JSON-ready."""
        return {
            "layers": [layer.config() for layer in self.layers],
            "input_shape": list(self.in_shape),
            "prior": self.prior,
            "dtype": self.dtype.name,
            "seed": self.seed,
            "threshold": self.threshold,
            "likelihood": {"name": self.likelihood.name, **asdict(self.likelihood)},
            **({} if self.input_columns is None else {"input_columns": self.input_columns.tolist()}),
            **({"original": {name: list(counts) for name, counts in self.original.items()}} if self.original else {}),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], backend: str = "auto", dtype: Any = None,
        living: Mapping[str, Living] | None = None,
    ) -> Sequential:  # fmt: skip
        """Build a network from `config`, with new initial weights; `living` names layers that only have listed ones."""
        check_type("config", config, Mapping)
        if missing := sorted(
            {"layers", "input_shape", "prior", "dtype", "seed", "threshold", "likelihood"} - {*config}
        ):
            raise SvdValueError(f"config: lacks {missing}, expected what `config` of a network returned")
        likelihood, given = config["likelihood"], config["layers"]
        check_type("config: likelihood", likelihood, Mapping)
        check_type("config: layers", given, list)
        check_type("config: input_shape", config["input_shape"], Sequence)
        try:
            layers, likelihood = [layer_from_config(layer) for layer in given], make_likelihood(**likelihood)
        except (TypeError, AttributeError, KeyError) as error:
            raise SvdValueError(f"config: {error}; expected what `config` of a network returned") from error
        for layer in layers:
            if living and layer.name in living:
                layer.living = living[layer.name]
        dtype = config["dtype"] if dtype is None else dtype
        check_type("backend", backend, str)
        if backend == "auto" and np.dtype(dtype) == np.float64:
            backend = "numpy"
        return cls(
            *layers, prior=config["prior"], backend=backend, dtype=dtype, seed=config["seed"],
            threshold=config["threshold"], likelihood=likelihood, input_shape=tuple(config["input_shape"]),
            input_columns=config.get("input_columns"), original=config.get("original"),
        )  # fmt: skip

    @exclusive
    def copy(self, backend: str | None = None, dtype: Any = None) -> Sequential:
        """Return an independent copy, optionally on another backend or in another dtype."""
        new = Sequential.from_config(self.config(), backend or self.backend.name, dtype)
        new.load_arrays(self.arrays())
        return new

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        """Describe the network as its file does, by its configuration and arrays, for `copy` and `pickle`."""
        arrays = {name: array.copy() for name, array in self.arrays().items()}
        return {"config": self.config(), "backend": self.backend.name, "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(Sequential.from_config(state["config"], state["backend"])))
        self.load_arrays(state["arrays"])

    def arrays(self) -> dict[str, Array]:
        """All arrays that belong to the network: parameters, states of layers and `input_mean`."""
        return {**self.parameters, **self.state, "input_mean": self.input_mean}

    @exclusive
    def take(self, outputs: Mapping[str, Any], inputs: Any = None) -> Sequential:
        """Return a smaller network without some of the units, channels and inputs.

        Parameters
        ----------
        outputs : mapping of layer name -> array of int or bool
            Which units (channels) to keep of layers with weights; layers not named keep all of them.
        inputs : array of int or bool, optional
            Which of the inputs (I,) to keep; only for inputs that are rows.

        Returns
        -------
        Sequential
            A new model with what remains of the parameters, Adam's moments, masks and states. Its `original` holds the
            counts of the network as first built. The next layer no longer receives anything from a removed unit: if
            that was a constant, add its contribution to the next layer's bias first.

        Raises
        ------
        SvdValueError, SvdTypeError
            For a layer without weights, an index out of range, or a layer with nothing left.
        """
        from svd_numpy.network.take import take

        small: Sequential = take(self, outputs, inputs).model
        return small

    @exclusive
    def load_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Fill parameters, states and `input_mean` from `arrays()` of a network of the same shape.

        Raises
        ------
        ValueError, TypeError
            If names or shapes differ, or numbers are not floats, not finite or out of bounds; nothing has changed then.
        """
        check_type("arrays", arrays, Mapping)
        ready = self._checked("load_arrays", arrays)
        for name, array in self.arrays().items():
            array[...] = ready[name]

    def _checked(self, what: str, arrays: Mapping[str, Any]) -> dict[str, Array]:
        """Return arrays in this network's dtype; refuse those that it cannot have."""
        own = self.arrays()
        if set(own) != set(arrays):
            raise SvdValueError(f"{what}: got arrays {sorted(arrays)}, expected {sorted(own)}")
        ready = dict[str, Array]()
        for name, array in own.items():
            given = as_array(f"{what}: {name}", arrays[name])
            if not np.issubdtype(given.dtype, np.floating):
                raise SvdTypeError(f"{what}: {name} is of {given.dtype}, expected floats")
            if given.shape != array.shape:
                raise SvdValueError(f"{what}: {name} has shape {given.shape}, expected {array.shape}")
            with np.errstate(over="ignore"):  # a float64 may be beyond float32
                given = given.astype(array.dtype, copy=False)
            if not np.isfinite(given).all():
                raise SvdValueError(f"{what}: {name} holds NaN or infinity, expected finite numbers")
            self._check_bounds(what, name, given)
            ready[name] = given
        return ready

    def _check_bounds(self, what: str, name: str, array: Array) -> None:
        """Refuse numbers beyond the bounds of a parameter, and negative variances."""
        low, high = self.arena.bounds_of(name) if name in self.parameters else (-math.inf, math.inf)
        if name.endswith((".running_var", ".batches")):
            low = 0
        if array.size and not self.dtype.type(low) <= array.min() <= array.max() <= self.dtype.type(high):
            raise SvdValueError(
                f"{what}: {name} goes from {array.min()} to {array.max()}, expected [{low:g}, {high:g}]"
            )

    @exclusive
    def save(self, path: str | Path) -> None:
        """Write the network to one self-contained, checksummed `.safetensors` file, atomically.

        Raises
        ------
        ValueError, TypeError
            For a network that `load` would refuse, such as one with NaN among its weights; nothing is written then.
        DiskError
            If the file cannot be written; `path` then still holds a whole file, the old or the new one.
        """
        from svd_numpy.files.safe_arrays import save_model
        from svd_numpy.network.described import check_described

        arrays, config = self.arrays(), self.config()
        check_described(config, self._checked("save", arrays))
        save_model(path, arrays, config)

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> Sequential:
        """Read a network written by `save`; a damaged file, or one of another kind, raises `CheckpointError`."""
        from svd_numpy.files.safe_arrays import CheckpointError, load_model
        from svd_numpy.network.described import check_described

        get_backend(backend)  # what is wrong with the backend is said as such, and is not blamed on the file
        arrays, config = load_model(path)
        try:
            check_described(config, arrays)
            model = cls.from_config(config, backend)
            model.load_arrays(arrays)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no network that Sequential.save wrote: {error}") from error
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
