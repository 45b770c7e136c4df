"""Recurrent layers: LSTM and GRU, with ordinary and with variational weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_flag, check_number
from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.priors import LOG_SIGMA2_MAX, LOG_SIGMA2_MIN
from svd_numpy.kernels.recurrence import Recurrence
from svd_numpy.network.layers.base import Pass, public_shape
from svd_numpy.network.layers.sampled import SampledWeights
from svd_numpy.network.layers.signs import SignedNoise
from svd_numpy.network.layers.tokens import Tokens
from svd_numpy.network.layers.weighted import Part, Weighted
from svd_numpy.network.params import ParamSpec


def also_read(inner: Array, read: Array) -> Array:
    """Which units are read, by the layer behind (`read`, (H,)) or, at the next step, by other units that are.

    inner (H, gates H), bool, says which weights of the recurrence are alive.
    """
    while True:
        more = np.asarray(read | inner[:, np.tile(read, inner.shape[1] // len(read))].any(axis=1))
        if (more == read).all():
            return more
        read = more


class _Recurrent(Weighted):
    """What LSTM and GRU share: theta (I + H, gates H), with the rows of the inputs above those of the units.

    Inputs are sequences (B, T, I), or tokens (B, T), for which an input is a row of theta.
    """

    axes = {"theta": ("in", "out"), "log_sigma2": ("in", "out"), "bias": ("bias",)}  # noqa: RUF012
    output_arrays: tuple[str, ...] = ()  # what comes out cannot be scaled by scaling weights
    gates: ClassVar[int]
    states: ClassVar[int]  # numbers that a unit carries from step to step
    needs_recurrence = True

    def __init__(
        self, in_features: int | Sequence[str], units: int, tokens: bool, padding: int | None, every_step: bool,
        theta_std: float | None, name: str | None,
    ) -> None:  # fmt: skip
        self.units = check_count("units", units)
        self.tokens = Tokens(in_features, padding) if check_flag("tokens", tokens) else None
        if self.tokens is None and padding is not None:
            raise SvdValueError(f"padding: got {padding!r} without tokens=True, expected None; inputs have no padding")
        self.in_features = check_count("in_features", in_features) if self.tokens is None else self.tokens.count
        if self.tokens is not None:
            self.takes_tokens, self.vocabulary = self.in_features, self.tokens.names
        self.every_step = check_flag("every_step", every_step)
        rows = self.units + (0 if self.tokens else self.in_features)  # that add up in a pre-activation
        super().__init__(self.in_features, True, rows**-0.5 if theta_std is None else theta_std, name)
        self.inner_rows = self.units
        self.theta_shape = (self.in_features + self.units, self.gates * self.units)

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        config = super().config()
        del config["bias"]
        tokens = self.tokens
        return {
            **config, "in_features": self.in_features if tokens is None else tokens.config(), "units": self.units,
            "tokens": tokens is not None, "padding": None if tokens is None else tokens.padding,
            "every_step": self.every_step,
        }  # fmt: skip

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if self.tokens is None and (len(in_shape) != 2 or in_shape[1] != self.in_features):
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {public_shape(in_shape)}, expected sequences "
                f"(B, T, {self.in_features}); give input_shape=(T, {self.in_features}), or fix the layer before it"
            )
        if self.tokens is not None and (len(in_shape) != 1 or self.index):
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {in_shape} at place {self.index}, expected tokens (T,) at "
                "place 0; make it the first layer, with input_shape=(T,)"
            )
        steps = (in_shape[0],) if self.every_step else ()
        return (*steps, self.units), self._specs(rng)

    def along(self, axis: str | None, inputs: Array, outputs: Array) -> Array | None:
        """See `Layer.along`: rows belong to inputs, then to units; columns to units, gate by gate."""
        if axis == "in":
            return np.append(inputs, self.in_features + outputs)
        if axis is None or axis in ("inputs", "units"):  # of groups
            return {"inputs": inputs, "units": outputs}.get(axis or "")
        blocks = len(self.bias) // self.units if axis == "bias" else self.gates
        return np.asarray(np.arange(blocks)[:, None] * self.units + outputs).ravel()

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`."""
        config = self.config()
        return {**config, "in_features": n_in if self.tokens is None else config["in_features"], "units": n_out}

    def _parts(self) -> dict[str, Part]:
        """See `Weighted._parts`."""
        rows, columns = self.theta_shape
        inputs, units = slice(0, self.in_features), slice(self.in_features, rows)
        return {"inputs": (0, inputs), "units": (0, units), "gates": (1, slice(0, columns))}

    def _bias(self) -> Array:
        """Initial value of the bias."""
        return np.zeros(1)

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        theta, bias = super()._specs(rng)
        return [theta, replace(bias, start=self._bias())]

    def _signs(self, sequences: int, run: Pass) -> SignedNoise | None:
        """What noise adds, sequence by sequence: nothing to ordinary weights."""
        return None

    def _spread_gradients(self, run: Pass) -> None:
        """Do what remains once d_theta is there: nothing for ordinary weights."""

    def _run(
        self, ops: Recurrence, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        """Forward pass over all steps, from what the inputs add to the pre-activations."""
        raise NotImplementedError

    def _run_back(
        self, ops: Recurrence, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        """Backward pass over all steps: writes the gradients of w and of the biases; gates becomes that of itself."""
        raise NotImplementedError

    def _run_each(self, ops: Recurrence, own: SignedNoise, state: Array, y: Array) -> None:
        """`_run`, one sequence after the other, each with its own weights."""
        part = slice(self.in_features, None)
        self._each += [Buffers() for _ in range(len(y) - len(self._each))]
        for b in range(len(y)):
            one, w = slice(b, b + 1), self._w[part] + own.signed(b, part, own.noise[part])
            there, alone = None if self._present is None else self._present[one], state[:, one].copy()
            self._run(ops, self._gates[one], w, alone, there, y[one], self._each[b])
            state[:, one] = alone

    def _run_each_back(self, ops: Recurrence, own: SignedNoise, dy: Array) -> None:
        """`_run_back`, one sequence after the other."""
        part = slice(self.in_features, None)
        for total in (self.d_theta[part], own.d_noise[part], self.d_bias):
            total[:] = 0
        d_w, d_bias = np.empty_like(self.d_theta[part]), np.empty_like(self.d_bias)
        for b in range(len(dy)):
            one, w = slice(b, b + 1), self._w[part] + own.signed(b, part, own.noise[part])
            there = None if self._present is None else self._present[one]
            self._run_back(ops, self._gates[one], w, there, dy[one], d_w, d_bias, self._each[b])
            self.d_theta[part] += d_w
            own.d_noise[part] += own.signed(b, part, d_w)
            self.d_bias += d_bias

    def first_state(self, sequences: int) -> Array:
        """See `Layer.first_state`."""
        return np.zeros((self.states, sequences, self.units), self.theta.dtype)

    def _begin(self, run: Pass, sequences: int, dtype: Any) -> Array:
        """The states in which the sequences begin, (states, B, H)."""
        if self.name in run.carried:
            return run.carried[self.name]
        state = self.memory.get("state", (self.states, sequences, self.units), dtype)
        run.backend.clear(state)
        return state

    def forward(self, x: Array, run: Pass) -> Array:
        """x (B, T, I), or tokens (B, T) -> y (B, T, H), or the last step's (B, H)."""
        ops = run.backend.recurrence
        assert ops is not None
        if self.tokens is not None:
            self.tokens.mark(x, run)
        self._x, self._present = x, run.present
        (sequences, steps), self._w = x.shape[:2], self._used_theta(run)
        dtype = self.theta.dtype
        self._gates = self.memory.get("gates", (sequences, steps, self.gates * self.units), dtype)
        rows, of_inputs = self._rows(self._gates), self._w[: self.in_features]
        if self.tokens is not None:
            ops.take_rows(of_inputs, x.reshape(-1), self._input_bias, rows)
        else:
            run.backend.dense_forward(self._rows(x), of_inputs, self._input_bias, rows, self._of_inputs)
        y, state = self.memory.get("y", (sequences, steps, self.units), dtype), self._begin(run, sequences, dtype)
        self._own = own = self._signs(sequences, run)
        if own is None:
            self._run(ops, self._gates, self._w[self.in_features :], state, self._present, y, self.memory)
        else:
            if self.tokens is not None:
                own.add_tokens(ops, x, self._gates)
            else:
                own.add_rows(run.backend, x, self._gates)
            self._run_each(ops, own, state, y)
        if self.every_step:
            return y
        last = self.memory.get("last", (sequences, self.units), dtype)
        run.backend.copy_columns(y.reshape(sequences, -1), (steps - 1) * self.units, last, 0, self.units)
        return last

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, T, H), or (B, H) -> dx (B, T, I)."""
        ops, x = run.backend.recurrence, self._x
        assert ops is not None
        if not self.every_step:
            last, dy = dy, self.memory.get("dy", (*x.shape[:2], self.units), dy.dtype)
            run.backend.clear(dy)
            run.backend.copy_columns(last, 0, dy.reshape(len(x), -1), (x.shape[1] - 1) * self.units, self.units)
        cut, dx, own = self.in_features, None, self._own
        if own is None:
            w, d_w = self._w[cut:], self.d_theta[cut:]
            self._run_back(ops, self._gates, w, self._present, dy, d_w, self.d_bias, self.memory)
        else:
            self._run_each_back(ops, own, dy)
        rows = self._rows(self._gates)
        if self.tokens is not None:
            ops.take_rows_backward(x.reshape(-1), rows, self.d_theta[:cut])
            if own is not None:
                own.pull_tokens(ops, x, self._gates, cut)
        else:
            dx = self.memory.get("dx", x.shape, x.dtype) if want_dx else None
            run.backend.dense_backward(
                self._rows(x), self._w[:cut], rows, self.d_theta[:cut], self._d_input_bias,
                None if dx is None else self._rows(dx), self._of_inputs,
            )  # fmt: skip
            if own is not None:
                own.pull_rows(run.backend, self._gates, dx)
        self._spread_gradients(run)
        return dx

    def bind(self, views: dict[str, Array], grads: dict[str, Array]) -> None:
        """See `Layer.bind`."""
        super().bind(views, grads)
        columns = self.gates * self.units
        self._input_bias, self._d_input_bias = self.bias[:columns], self.d_bias[:columns]
        self._of_inputs = Buffers()  # of the product with the inputs, apart from that of the recurrence
        self._each = list[Buffers]()  # of each sequence, if they have weights of their own


class LSTM(_Recurrent):
    """Long short-term memory over sequences (B, T, I), or tokens (B, T); see `Recurrence.lstm_forward`.

    Parameters
    ----------
    in_features : int, or sequence of str
        Size of an input; with `tokens`, number of tokens, or what they stand for (then stored with the network).
    units : int
    tokens : bool
        The inputs are tokens: integers from 0, each of which reads its own row of theta.
    padding : int, optional
        The token that only fills up short sequences: steps with it leave the state as it is.
    every_step : bool
        Whether the outputs are those of every step, (B, T, units), or of the last one only, (B, units).
    theta_std : float, optional
        Standard deviation of the initial theta; default 1 / sqrt(in_features + units), with tokens 1 / sqrt(units).
    name : str, optional

    Notes
    -----
    theta is (in_features + units, 4 units): the columns are those of the gates i, f, g, o; the forget gates f start at
    bias 1 (Gers et al. 2000). Every sequence begins with state 0, unless the data say otherwise (`Dataset.lanes`).
    """

    kind = "lstm"
    gates, states = 4, 2

    def __init__(
        self, in_features: int | Sequence[str], units: int, tokens: bool = False, padding: int | None = None,
        every_step: bool = True, theta_std: float | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, units, tokens, padding, every_step, theta_std, name)

    def _bias(self) -> Array:
        return np.repeat([0.0, 1.0, 0.0, 0.0], self.units)

    def _run(
        self, ops: Recurrence, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        ops.lstm_forward(gates, w, state, present, y, memory)

    def _run_back(
        self, ops: Recurrence, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        ops.lstm_backward(gates, w, present, dy, d_w, d_bias, memory)


class GRU(_Recurrent):
    """Gated recurrent unit over sequences (B, T, I), or tokens (B, T); see `Recurrence.gru_forward`.

    Parameters
    ----------
    in_features, units, tokens, padding, every_step, theta_std, name
        As in `LSTM`.

    Notes
    -----
    theta is (in_features + units, 3 units): the columns are those of r, z, n. The bias (4 units,) ends with the one
    inside n, which r multiplies.
    """

    kind = "gru"
    gates, states = 3, 1

    def __init__(
        self, in_features: int | Sequence[str], units: int, tokens: bool = False, padding: int | None = None,
        every_step: bool = True, theta_std: float | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, units, tokens, padding, every_step, theta_std, name)

    def _specs(self, rng: np.random.Generator) -> list[ParamSpec]:
        theta, bias = super()._specs(rng)
        return [theta, replace(bias, shape=(4 * self.units,))]

    def _run(
        self, ops: Recurrence, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        ops.gru_forward(gates, w, self.bias[3 * self.units :], state, present, y, memory)

    def _run_back(
        self, ops: Recurrence, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        cut = 3 * self.units
        ops.gru_backward(gates, w, present, dy, d_w, d_bias[:cut], d_bias[cut:], memory)


class VariationalLSTM(SampledWeights, LSTM):
    """LSTM whose weights are Gaussians N(theta, exp(log_sigma2)), sampled once for a batch (Chirkova et al. 2018).

    Parameters
    ----------
    in_features, units, tokens, padding, every_step, theta_std, name
        As in `LSTM`.
    log_sigma2 : float
        Initial value of every log_sigma2 (the authors' code: -6).
    groups : sequence of str
        Groups of weights that share a random factor: "inputs" (or tokens), "units" as they are read at the next step,
        "gates" (each pre-activation of a unit, without its bias).
    family : str
        Distribution of the factors, as in `Gate`; it decides which groups are closed, and their weights pruned.
    noise : "batch" or "sequence"
        Whether all sequences of a batch share one sample of the weights, or its noise has random signs of its own in
        each of them, the same at all steps (Flipout: Wen et al. 2018). The latter makes gradients less noisy and
        takes longer, as sequences are run one by one.
    """

    def __init__(
        self, in_features: int | Sequence[str], units: int, tokens: bool = False, padding: int | None = None,
        every_step: bool = True, theta_std: float | None = None, log_sigma2: float = -6.0,
        groups: Sequence[str] = (), family: str = "normal-jeffreys", noise: str = "batch", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, units, tokens, padding, every_step, theta_std, name)
        self.start_log_sigma2 = check_number("log_sigma2", log_sigma2, LOG_SIGMA2_MIN, LOG_SIGMA2_MAX)
        self._group(groups, family)
        self._set_noise(noise)


class VariationalGRU(SampledWeights, GRU):
    """GRU whose weights are Gaussians N(theta, exp(log_sigma2)), sampled once for a batch.

    Parameters
    ----------
    in_features, units, tokens, padding, every_step, theta_std, name
        As in `LSTM`.
    log_sigma2, groups, family, noise
        As in `VariationalLSTM`.
    """

    def __init__(
        self, in_features: int | Sequence[str], units: int, tokens: bool = False, padding: int | None = None,
        every_step: bool = True, theta_std: float | None = None, log_sigma2: float = -6.0,
        groups: Sequence[str] = (), family: str = "normal-jeffreys", noise: str = "batch", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, units, tokens, padding, every_step, theta_std, name)
        self.start_log_sigma2 = check_number("log_sigma2", log_sigma2, LOG_SIGMA2_MIN, LOG_SIGMA2_MAX)
        self._group(groups, family)
        self._set_noise(noise)
