"""Weights that are sampled once for a whole batch, and factors that groups of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_choice
from svd_numpy.kernels.backend import Array, Backend, Buffers
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.layers.factors import Factors
from svd_numpy.network.layers.signs import SignedNoise
from svd_numpy.network.layers.weighted import Part, Variational
from svd_numpy.network.params import ParamSpec


class SampledWeights(Variational):
    """It samples the weights themselves, once for a whole batch (Chirkova, Lobacheva, Vetrov 2018).

    A recurrent layer has to use the same weights at every step: fresh noise at every step would average out. A mixin to
    put before a layer that gets its weights from `_used_theta` and calls `_spread_gradients` at the end of `backward`.

    The noise of the weights is the same for all sequences of a batch, or has signs of its own in each (`noise`); then
    `_used_theta` gives the means, and `_signs` what each sequence adds to them.

    The weights of a row or of a column can share a random factor z, drawn once for a batch, too: w = z_row w~ z_column.
    Its distribution is one of a gate family. Where z is closed, all its weights count as pruned.

    Attributes
    ----------
    weight_groups : dict of name -> Factors
        The factors of each kind of groups.
    """

    weight_groups: dict[str, Factors]
    noise = "batch"
    _noise: Array | None = None  # of this pass, if sequences have signs
    _signed: SignedNoise | None = None

    def _set_noise(self, noise: str) -> None:
        """Check and set what shares the noise."""
        self.noise, self._sign_memory = check_choice("noise", noise, ("batch", "sequence")), Buffers()

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
        shared = {} if self.noise == "batch" else {"noise": self.noise}
        return {**super().config(), **own, **shared}

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
        parts = [super()._used_theta(run)] if run.mode == "mean" else self._drawn(run)
        w, *noise = self._scaled(parts, run) if self.weight_groups else parts
        self._noise = noise[0] if noise else None
        return w

    def _drawn(self, run: Pass) -> list[Array]:
        """A sample of the weights; or, if sequences have signs, their means and a sample of the noise."""
        ops, theta = run.backend.recurrence, self.theta
        assert ops is not None
        w = self.memory.get("w", theta.shape, theta.dtype)
        key = run.noise_key(self.index)._replace(first_sample=0)  # all parts of a large batch share the weights
        if self.noise == "sequence" and run.backend.name == "cuda":
            raise SvdValueError(
                f"layer {self.name!r}: noise='sequence' is not on the backend 'cuda' yet; take 'batch', or 'numba'"
            )
        if self.noise == "batch":
            ops.sample_weights(theta, self.log_sigma2, run.keep, key, self._sampled_rows(), w, self.memory)
            return [w]
        zero = self.memory.get("zero", theta.shape, theta.dtype)  # nobody writes there
        ops.sample_weights(zero, self.log_sigma2, 0.0, key, self._sampled_rows(), w, self.memory)
        masked = np.where(theta**2 >= run.keep * np.exp(self.log_sigma2), theta, zero) if run.keep else theta
        return [masked, w]

    def _signs(self, sequences: int, run: Pass) -> SignedNoise | None:
        """What the noise adds to the weights of each sequence; None if all share it, or if there is none."""
        self._signed = None
        if self._noise is not None:
            (rows, columns), key = self.theta.shape, run.noise_key(self.index)
            behind = rows + len(self.weight_groups)  # the noise of weights and factors
            draws = run.backend.noise(key._replace(first_sample=behind + key.first_sample), sequences, rows + columns)
            signs = np.where(draws < 0, -1, 1).astype(self.theta.dtype)
            self._signed = SignedNoise(self._noise, signs[:, :rows], signs[:, rows:], self._sign_memory)
        return self._signed

    def _scaled(self, parts: list[Array], run: Pass) -> list[Array]:
        """z_row w z_column for each part w, with a sample of the factors, or those of the pruned network."""
        w = parts[0]
        run.backend.to_host(*parts, *(view for z in self.weight_groups.values() for view in z.views.values()))
        rows, columns = self.group_factors()
        self._tapes = list[Any]([None] * len(self.weight_groups))
        for at, (z, (axis, part)) in enumerate(self._grouped() if run.mode == "sample" else ()):
            key = run.noise_key(self.index)._replace(first_sample=len(w) + at)  # behind the rows of the weights
            noise = run.backend.noise(key, 1, z.size + z.family.shared_noise)
            drawn, self._tapes[at] = z.sample(noise, run.keep)
            (rows, columns)[axis][part] = drawn[0]
        self._z, self._unscaled = (rows.astype(w.dtype), columns.astype(w.dtype)), parts
        found = []
        for at, one in enumerate(parts):
            scaled = self.memory.get(f"scaled {at}", w.shape, w.dtype)
            np.multiply(one, self._z[0][:, None], out=scaled)
            scaled *= self._z[1]
            found.append(scaled)
        run.backend.to_device(*found)
        return found

    def _pull_groups(self, gradients: list[Array], backend: Backend) -> None:
        """Gradients of the factors from those of the scaled parts of the weights, which become those of the parts."""
        backend.to_host(*gradients)
        rows, columns = self._z
        product = np.zeros_like(self.d_theta)
        for own, one in zip(gradients, self._unscaled, strict=True):
            product += own * one
        pulls = product @ columns, rows @ product
        for tape, (z, (axis, part)) in zip(self._tapes, self._grouped(), strict=True):
            z.pull(tape, pulls[axis][None, part])
        for own in gradients:
            own *= rows[:, None]
            own *= columns
        of_factors = (grad for z in self.weight_groups.values() for grad in z.grads.values())
        backend.to_device(*gradients, *of_factors)

    def _spread_gradients(self, run: Pass) -> None:
        """Turn the gradient of the weights, in d_theta, into that of their variances as well."""
        gradients = [self.d_theta] if self._signed is None else [self.d_theta, self._signed.d_noise]
        if self.weight_groups:
            self._pull_groups(gradients, run.backend)
        if run.mode == "mean":
            run.backend.clear(self.d_log_sigma2)  # without noise nothing depends on it
            return
        assert run.backend.recurrence is not None
        run.backend.recurrence.sample_weights_backward(gradients[-1], self.d_log_sigma2, self.memory)

    def kl(self, backend: Backend) -> float:
        """See `Layer.kl`."""
        return sum((z.kl() for z in self.weight_groups.values()), 0.0)

    def add_kl_gradients(self, backend: Backend, kl_scale: float) -> None:
        """See `Layer.add_kl_gradients`."""
        for z in self.weight_groups.values():
            z.add_kl_gradients(backend, kl_scale)
