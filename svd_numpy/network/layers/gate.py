"""Gates: each unit or channel is multiplied by a random factor, whose distribution tells which of them can go."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.network.gates.family import Family
from svd_numpy.network.layers.base import Layer, Pass, public_shape
from svd_numpy.network.layers.factors import Factors
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.params import ParamSpec


class Gate(Layer):
    """y = x * z, with one random factor z for each unit of rows, or for each channel of images, at all positions.

    In training and in `sample`, factors are drawn, the same for all examples of a batch; their KL from the prior of the
    family is part of the loss. Otherwise they are the family's test values, and 0 where a unit's score is above the
    threshold: such a unit is *closed*. All weights that feed or read nothing but closed units count as pruned.
    `fold_gates` makes ordinary weights of them.

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
        self._factors = Factors(self.num_features, family, score, threshold, lr_factor, options)
        self._options = {option: float(value) for option, value in options.items()}
        self.axes = {own: (None if knob.shared else "in",) for own, knob in self._factors.knobs.items()}
        self.fixed = tuple(self._factors.knobs)

    @property
    def family(self) -> Family:
        """Distribution of the factors."""
        return self._factors.family

    @property
    def threshold(self) -> float:
        """Units whose score is above it are closed."""
        return self._factors.threshold

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        own, z = {"num_features": self.num_features}, self._factors
        rule = {"family": z.family.name, "score": z.score, "threshold": z.threshold, "lr_factor": z.lr_factor}
        return {**super().config(), **own, **rule, **self._options}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if in_shape[-1] != self.num_features:
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, that is {in_shape[-1]} "
                f"{'channels' if len(in_shape) == 3 else 'features'}, expected {self.num_features}; use "
                f"Gate({in_shape[-1]}), or fix the layer before it"
            )
        return in_shape, self._factors.specs(self.name)

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        self._factors.bind(self.name, views, grads)

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        return {**self.config(), "num_features": n_in}

    def scores(self) -> Array:
        """Score (num_features,) of every unit; it is closed where this is above the threshold."""
        return self._factors.scores()

    def closed(self) -> Array:
        """See `Layer.closed`."""
        return self._factors.closed()

    def factors(self) -> Array:
        """Factors (num_features,) of the pruned network, in float64."""
        return self._factors.tested()

    def variances(self) -> Array:
        """Variances (num_features,) of the factors, 0 for closed units, in float64."""
        return self._factors.variances()

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, ..., num_features) -> y of the same shape, a new array."""
        run.backend.to_host(*self._factors.views.values())
        z = self.memory.get("z", (self.num_features,), x.dtype)
        if run.mode == "mean":
            self._tape, z[:] = None, self.factors()
        else:
            key = run.noise_key(self.index)._replace(first_sample=0)  # all parts of a large batch share the factors
            noise = run.backend.noise(key, 1, self.num_features + self.family.shared_noise)
            (z[:],), self._tape = self._factors.sample(noise, run.keep)
        run.backend.to_device(z)
        y = self.memory.get("y", x.shape, x.dtype)
        run.backend.gate_forward(x, z, y)
        self._x, self._z = x, z
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy -> dx, in place."""
        shares, d_z = self.memory.get("d_z", (len(dy), self.num_features), dy.dtype), np.zeros(self.num_features)
        run.backend.gate_backward(self._x, self._z, dy, shares, dy)
        if self._tape is not None:
            run.backend.to_host(shares)
            shares.sum(axis=0, dtype=np.float64, out=d_z)
        self._pull(d_z, run)
        return dy

    def needs_no_dy(self, reader: Any, run: Pass) -> bool:
        """See `Layer.needs_no_dy`."""
        return isinstance(reader, Weighted) and reader.tells_pulls and not run.keep

    def backward_from(self, reader: Any, run: Pass) -> None:
        """See `Layer.backward_from`: d_z = sum_b x dy is sum_b y dy / z, since all examples share the factors."""
        d_z = np.zeros(self.num_features)
        if self._tape is not None:
            pulls = reader.input_pulls(run)
            run.backend.to_host(pulls)
            np.divide(pulls, self._z, out=d_z, where=self._z != 0)  # of no family has a factor a slope where it is 0
        self._pull(d_z, run)

    def _pull(self, d_z: Array, run: Pass) -> None:
        """Write the gradients of the parameters, given that of the factors."""
        self._factors.pull(self._tape, d_z[None])
        run.backend.to_device(*self._factors.grads.values())

    def kl(self, backend: Backend) -> float:
        """See `Layer.kl`."""
        return self._factors.kl()

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`."""
        self._factors.add_kl_gradients(backend, kl_scale)
