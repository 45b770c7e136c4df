"""Random factors, one for each unit, or for each row or column of a matrix of weights: parameters, KL, scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from svd_numpy.checks import check_choice, check_number
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.network.gates import Family, make_family
from svd_numpy.network.params import ParamSpec


class Factors:
    """Factors z of `size` units, whose distribution is one of a gate family.

    A unit whose score is above the threshold is closed: the pruned network has the factor 0 there.

    Parameters
    ----------
    size : int
        Number of units.
    family : str
        A name in `svd_numpy.network.gates.FAMILIES`.
    score, threshold, lr_factor : optional
        As in `Gate`.
    options : mapping
        Options of the family.
    prefix : str
        What the names of the parameters begin with, behind that of the layer.

    Attributes
    ----------
    knobs : dict of name -> Knob
        The parameters, with the prefix.
    views, grads : dict of name -> array
        Where they and their gradients are, without the prefix; there once the layer is built.
    """

    def __init__(
        self, size: int, family: str, score: str | None = None, threshold: float | None = None,
        lr_factor: float | None = None, options: Mapping[str, float] | None = None, prefix: str = "",
    ) -> None:  # fmt: skip
        self.size, self.family, self._prefix = size, make_family(family, options or {}), prefix
        known = self.family.thresholds
        self.score = check_choice("score", next(iter(known)) if score is None else score, tuple(known))
        threshold = known[self.score] if threshold is None else threshold
        self.threshold = check_number("threshold", threshold, low=-1e6, high=1e6)
        factor = self.family.lr_factor if lr_factor is None else lr_factor
        self.lr_factor = check_number("lr_factor", factor, low=0, high=1e3)
        self._own = self.family.knobs()
        # Whether the arena holds their posterior, so that the pass over all parameters adds the KL.
        self.in_arena = bool(self.family.prior) and type(self.family).kl is Family.kl
        self.knobs = {prefix + own: knob for own, knob in self._own.items()}
        self.views, self.grads = dict[str, Array](), dict[str, Array]()

    def specs(self, layer: str) -> list[ParamSpec]:
        """What the layer of this name asks for in `Layer.build`."""
        if self.in_arena:
            (name, mean), (spread, log_var) = self.knobs.items()
            return [
                ParamSpec(
                    f"{layer}.{name}", (self.size,), np.full(1, mean.start), np.full(1, log_var.start),
                    self.family.prior, log_var.low, log_var.high, self.lr_factor, spread,
                )
            ]  # fmt: skip
        return [
            ParamSpec(
                f"{layer}.{own}", (1 if knob.shared else self.size,), np.full(1, knob.start),
                low=knob.low, high=knob.high, lr_factor=self.lr_factor,
            )
            for own, knob in self.knobs.items()
        ]  # fmt: skip

    def bind(self, layer: str, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        start = f"{layer}.{self._prefix}"
        self.views, self.grads = ({own: of[start + own] for own in self._own} for of in (views, grads))

    def numbers(self) -> dict[str, Array]:
        """The parameters in float64."""
        return {own: view.astype(np.float64) for own, view in self.views.items()}

    def scores(self) -> Array:
        """Score (size,) of every unit."""
        return self.family.score(self.numbers(), self.score)

    def closed(self) -> Array:
        """Which units are closed, (size,), bool."""
        return np.asarray(self.scores() > self.threshold)

    def tested(self) -> Array:
        """Factors (size,) of the pruned network, in float64."""
        return np.where(self.closed(), 0.0, self.family.test(self.numbers()))

    def variances(self) -> Array:
        """Variances (size,) of the factors, 0 for closed units, in float64."""
        return np.where(self.closed(), 0.0, self.family.variance(self.numbers()))

    def sample(self, noise: Array, keep: float) -> tuple[Array, Any]:
        """Draw factors (rows, size), and what `pull` needs; `keep` masks means as it does those of weights."""
        numbers = self.numbers()
        if keep and self.in_arena:
            kept = numbers["mean"] ** 2 >= keep * np.exp(numbers["log_var"])
            numbers["mean"] = np.where(kept, numbers["mean"], 0.0)
        return self.family.sample(numbers, noise)

    def pull(self, tape: Any, d_z: Array) -> None:
        """Write the gradients of the parameters, given those of the factors (rows, size); without a tape they are 0."""
        pulls = dict[str, Array]()
        if tape is not None:
            numbers = self.numbers()
            pulls = self.family.pull(numbers, tape, d_z)
            if self.in_arena:  # it takes the gradient of a variance
                pulls["log_var"] = pulls["log_var"] * np.exp(-numbers["log_var"])
        for own, grad in self.grads.items():
            grad[:] = pulls.get(own, 0)

    def kl(self) -> float:
        """KL from the prior of the family, in nats, unless the arena holds the posterior."""
        return 0.0 if self.in_arena else self.family.kl(self.numbers())

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`."""
        if kl_scale == 0 or self.in_arena:
            return
        for own, gradient in self.family.kl_gradients(self.views).items():
            self.grads[own] += kl_scale * gradient
        backend.to_device(*self.grads.values())
