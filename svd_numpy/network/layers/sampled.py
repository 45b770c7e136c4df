"""Weights that are sampled once for a whole batch, and factors that groups of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.kernels.backend import Array, Backend
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.layers.factors import Factors
from svd_numpy.network.layers.weighted import Part, Variational
from svd_numpy.network.params import ParamSpec


class SampledWeights(Variational):
    """It samples the weights themselves, once for a whole batch (Chirkova, Lobacheva, Vetrov 2018).

    A recurrent layer has to use the same weights at every step: fresh noise at every step would average out. A mixin to
    put before a layer that gets its weights from `_used_theta` and calls `_spread_gradients` at the end of `backward`.

    The weights of a row or of a column can share a random factor z, drawn once for a batch, too: w = z_row w~ z_column.
    Its distribution is one of a gate family. Where z is closed, all its weights count as pruned.

    Attributes
    ----------
    weight_groups : dict of name -> Factors
        The factors of each kind of groups.
    """

    weight_groups: dict[str, Factors]

    def _group(self, groups: Sequence[str], family: str) -> None:
        """Check and make the groups."""
        parts, given = self._parts(), [groups] if isinstance(groups, str) else list(groups)
        if len(set(given)) < len(given) or not set(given) <= set(parts):
            raise SvdValueError(f"groups: got {given}, expected some of {list(parts)}, each at most once")
        self.weight_groups = {
            name: Factors(part.stop - part.start, family, prefix=f"{name}_")
            for name, (_, part) in parts.items() if name in given
        }  # fmt: skip
        knobs = {own: (name, knob) for name, z in self.weight_groups.items() for own, knob in z.knobs.items()}
        self.fixed = tuple(knobs)
        self.axes = {**self.axes, **{own: (None if knob.shared else name,) for own, (name, knob) in knobs.items()}}

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        groups = self.weight_groups
        own = {"groups": list(groups), "family": next(iter(groups.values())).family.name} if groups else {}
        return {**super().config(), **own}

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        return [*super()._specs(rng), *(spec for z in self.weight_groups.values() for spec in z.specs(self.name))]

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        super().bind(views, grads)
        for z in self.weight_groups.values():
            z.bind(self.name, views, grads)

    def alive(self, threshold: float) -> Array:
        """See `Layer.alive`: where log_alpha <= threshold, and neither row nor column is closed."""
        open_ = np.ones(len(self.theta), bool), np.ones(self.theta.shape[1], bool)
        for z, (axis, part) in self._grouped():
            open_[axis][part] = ~z.closed()
        return np.asarray(super().alive(threshold) & open_[0][:, None] & open_[1])

    def pruned_theta(self, threshold: float) -> Array:
        """See `Weighted.pruned_theta`: with their factors."""
        rows, columns = self.group_factors()
        return np.asarray(super().pruned_theta(threshold) * np.outer(rows, columns).astype(self.theta.dtype))

    def group_factors(self) -> tuple[Array, Array]:
        """Factors of the pruned network, of rows (I,) and columns (O,) of theta; 1 where there are no groups."""
        found = np.ones(self.theta.shape[0]), np.ones(self.theta.shape[1])
        for z, (axis, part) in self._grouped():
            found[axis][part] = z.tested()
        return found

    def group_variances(self) -> tuple[Array, Array]:
        """Variances of these factors, 0 for those of closed groups."""
        found = np.zeros(self.theta.shape[0]), np.zeros(self.theta.shape[1])
        for z, (axis, part) in self._grouped():
            found[axis][part] = z.variances()
        return found

    def _grouped(self) -> list[tuple[Factors, Part]]:
        parts = self._parts()
        return [(z, parts[name]) for name, z in self.weight_groups.items()]

    def _sampled_rows(self) -> Array | None:
        """Which rows of the weights this pass reads, each once; None: all."""
        return None

    def _used_theta(self, run: Pass) -> Array:
        """A sample of the weights, or the means (`Weighted._used_theta`)."""
        if run.mode == "mean":
            w = super()._used_theta(run)
        else:
            assert run.backend.recurrence is not None
            w = self.memory.get("w", self.theta.shape, self.theta.dtype)
            key = run.noise_key(self.index)._replace(first_sample=0)  # all parts of a large batch share the weights
            run.backend.recurrence.sample_weights(
                self.theta, self.log_sigma2, run.keep, key, self._sampled_rows(), w, self.memory
            )
        return self._scaled(w, run) if self.weight_groups else w

    def _scaled(self, w: Array, run: Pass) -> Array:
        """z_row w z_column, with a sample of the factors, or those of the pruned network."""
        rows, columns = self.group_factors()
        self._tapes = list[Any]([None] * len(self.weight_groups))
        for at, (z, (axis, part)) in enumerate(self._grouped() if run.mode == "sample" else ()):
            key = run.noise_key(self.index)._replace(first_sample=len(w) + at)  # behind the rows of the weights
            noise = run.backend.noise(key, 1, z.size + z.family.shared_noise)
            drawn, self._tapes[at] = z.family.sample(z.numbers(), noise)
            (rows, columns)[axis][part] = drawn[0]
        self._z, self._unscaled = (rows.astype(w.dtype), columns.astype(w.dtype)), w
        scaled = self.memory.get("scaled", w.shape, w.dtype)
        np.multiply(w, self._z[0][:, None], out=scaled)
        scaled *= self._z[1]
        return scaled

    def _pull_groups(self) -> None:
        """Gradients of the factors from that of the scaled weights in d_theta, which becomes that of w."""
        rows, columns = self._z
        product = self.d_theta * self._unscaled
        pulls = product @ columns, rows @ product
        for tape, (z, (axis, part)) in zip(self._tapes, self._grouped(), strict=True):
            z.pull(tape, pulls[axis][None, part])
        self.d_theta *= rows[:, None]
        self.d_theta *= columns

    def _spread_gradients(self, run: Pass) -> None:
        """Turn the gradient of the weights, in d_theta, into that of their variances as well."""
        if self.weight_groups:
            self._pull_groups()
        if run.mode == "mean":
            run.backend.clear(self.d_log_sigma2)  # without noise nothing depends on it
            return
        assert run.backend.recurrence is not None
        run.backend.recurrence.sample_weights_backward(self.d_theta, self.d_log_sigma2, self.memory)

    def kl(self, backend: Backend) -> float:
        """See `Layer.kl`."""
        return sum((z.kl() for z in self.weight_groups.values()), 0.0)

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`."""
        for z in self.weight_groups.values():
            z.add_kl_gradients(backend, kl_scale)
