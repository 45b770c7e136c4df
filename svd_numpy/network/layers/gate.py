"""Gates: each unit or channel is multiplied by a random factor, whose distribution tells which of them can go."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_number
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.network.gates import make_family
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.params import ParamSpec


class Gate(Layer):
    """y = x * z, with one random factor z for each unit of rows, or for each channel of images, at all positions.

    In training and in `sample`, factors are drawn; their KL from the prior of the family is part of the loss. Otherwise
    they are the family's test values, and 0 where a unit's score is above the threshold: such a unit is *closed*. All
    weights that feed or read nothing but closed units count as pruned. `fold_gates` makes ordinary weights of them.

    Parameters
    ----------
    num_features : int
        Units of rows (or of every step of sequences), channels of images.
    family : str
        A name in `svd_numpy.network.gates.FAMILIES`: "normal-jeffreys", "ard", "half-cauchy",
        "half-cauchy-bound", "truncated-log-normal", "hard-concrete", or one given to `add_family`.
    score : str, optional
        By which of the family's scores units are closed; default: its first.
    threshold : float, optional
        Units whose score is above it are closed; default: the family's for this score.
    lr_factor : float, optional
        Factor on the learning rate of the parameters; default: the family's.
    name : str, optional
    **options : float
        Those of the family.
    """

    kind = "gate"
    homogeneous = "any"

    def __init__(
        self, num_features: int, family: str = "normal-jeffreys", score: str | None = None,
        threshold: float | None = None, lr_factor: float | None = None, name: str | None = None, **options: float,
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.num_features = check_count("num_features", num_features)
        self.family = make_family(family, options)
        self._options = {option: float(value) for option, value in options.items()}
        known = self.family.thresholds
        self.score = check_choice("score", next(iter(known)) if score is None else score, tuple(known))
        threshold = known[self.score] if threshold is None else threshold
        self.threshold = check_number("threshold", threshold, low=-1e6, high=1e6)
        factor = self.family.lr_factor if lr_factor is None else lr_factor
        self.lr_factor = check_number("lr_factor", factor, low=0, high=1e3)
        self._knobs = self.family.knobs()
        self.axes = {own: (None if knob.shared else "in",) for own, knob in self._knobs.items()}
        self.fixed = tuple(self._knobs)

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        own = {"num_features": self.num_features, "family": self.family.name, "score": self.score}
        return {**super().config(), **own, "threshold": self.threshold, "lr_factor": self.lr_factor, **self._options}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if in_shape[-1] != self.num_features:
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, that is {in_shape[-1]} "
                f"{'channels' if len(in_shape) == 3 else 'features'}, expected {self.num_features}; use "
                f"Gate({in_shape[-1]}), or fix the layer before it"
            )
        specs = [
            ParamSpec(
                f"{self.name}.{own}", (1 if knob.shared else self.num_features,), np.full(1, knob.start),
                low=knob.low, high=knob.high, lr_factor=self.lr_factor,
            )
            for own, knob in self._knobs.items()
        ]  # fmt: skip
        return in_shape, specs

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        self._views, self._grads = ({own: of[f"{self.name}.{own}"] for own in self._knobs} for of in (views, grads))

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        return {**self.config(), "num_features": n_in}

    def _numbers(self) -> dict[str, Array]:
        """The parameters in float64."""
        return {own: view.astype(np.float64) for own, view in self._views.items()}

    def scores(self) -> Array:
        """Score (num_features,) of every unit; it is closed where this is above the threshold."""
        return self.family.score(self._numbers(), self.score)

    def closed(self) -> Array:
        """See `Layer.closed`."""
        return np.asarray(self.scores() > self.threshold)

    def factors(self) -> Array:
        """Factors (num_features,) of the pruned network, in float64."""
        return np.where(self.closed(), 0.0, self.family.test(self._numbers()))

    def variances(self) -> Array:
        """Variances (num_features,) of the factors, 0 for closed units, in float64."""
        return np.where(self.closed(), 0.0, self.family.variance(self._numbers()))

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, ..., num_features) -> y of the same shape, a new array."""
        run.backend.to_host(*self._views.values())
        z = self.memory.get("z", (len(x), self.num_features), x.dtype)
        if run.mode == "mean":
            self._tape, z[:] = None, self.factors()
        else:
            key, rows = run.noise_key(self.index), len(x)
            if not self.family.per_example:
                key, rows = key._replace(first_sample=0), 1
            noise = run.backend.noise(key, rows, self.num_features + self.family.shared_noise)
            z[:], self._tape = self.family.sample(self._numbers(), noise)
        run.backend.to_device(z)
        y = self.memory.get("y", x.shape, x.dtype)
        run.backend.gate_forward(x, z, y)
        self._x, self._z = x, z
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy -> dx, in place."""
        d_z = self.memory.get("d_z", self._z.shape, dy.dtype)
        run.backend.gate_backward(self._x, self._z, dy, d_z, dy)
        if self._tape is None:
            pulls = {own: np.zeros(1) for own in self._knobs}
        else:
            run.backend.to_host(d_z)
            if not self.family.per_example:  # one row of factors, for all examples
                d_z = d_z.sum(axis=0, keepdims=True, dtype=np.float64)
            pulls = self.family.pull(self._numbers(), self._tape, d_z)
        for own, pull in pulls.items():
            self._grads[own][:] = pull
        run.backend.to_device(*self._grads.values())
        return dy

    def kl(self, backend: Backend) -> float:
        """See `Layer.kl`."""
        return self.family.kl(self._numbers())

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`."""
        if kl_scale == 0:
            return
        for own, gradient in self.family.kl_gradients(self._numbers()).items():
            self._grads[own] += kl_scale * gradient
        backend.to_device(*self._grads.values())
