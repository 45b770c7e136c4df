"""The contract of recurrent networks: sampled weights, rows of tables, LSTM and GRU, defined in one place.

A part of the contract in `backend.py`, with the same rules; a backend that has these operations holds them as its
`recurrence`. `reference_recurrence.py` is plain NumPy, `cpu/recurrence.py` is Numba.

Shapes: B sequences, T steps, H units, V rows of a table (letters, words), N = B T. `present` (B, T), uint8, is 0 at
steps that are only padding, or None if there are none: there the state stays as it is, and nothing has a gradient.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers, NoiseKey

Tokens = NDArray[np.int64]


class Recurrence(Protocol):
    """Operations on arrays, defined by their equations."""

    def sample_weights(
        self, theta: Array, log_sigma2: Array, keep: float, key: NoiseKey, rows: Tokens | None, w: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        """w = theta' + sigma * noise, with theta' = theta where theta^2 >= keep * sigma^2, else 0.  All (I, O).

        Row i of the noise is that of sample i, so that one sample of the weights serves a whole batch. If `rows` is
        given, only these rows are written. `memory` keeps r = noise / (2 sigma).
        """

    def sample_weights_backward(self, d_w: Array, d_sigma2: Array, memory: Buffers) -> None:
        """d_sigma2 = d_w * r, for the last `sample_weights` with this `memory`; d_theta is d_w itself."""

    def take_rows(self, table: Array, tokens: Tokens, bias: Array | None, y: Array) -> None:
        """y[n] = table[tokens[n]] (+ bias).  table (V, O); tokens (N,); y (N, O)."""

    def take_rows_backward(self, tokens: Tokens, dy: Array, d_table: Array) -> None:
        """d_table[v] = sum of dy[n] over the n with tokens[n] = v, in their order."""

    def lstm_forward(
        self, gates: Array, w: Array, state: Array, present: NDArray[np.uint8] | None, y: Array, memory: Buffers
    ) -> None:
        """Run an LSTM over all steps (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

        For every step, with a = gates[:, t] + h w in four parts of H columns:
        i, f, o = sigmoid(a)      g = tanh(a)          in the order i, f, g, o
        c = f * c' + i * g        h = o * tanh(c)      c' and the h of `h w` are those of the step before
        gates : (B, T, 4H); in: what the inputs add to the pre-activations, with the bias; out: i, f, g, o
        w : (H, 4H)
        state : (2, B, H); in: h and c before the first step; out: after the last
        y : (B, T, H), every h
        `memory` keeps what backward needs.
        """

    def lstm_backward(
        self, gates: Array, w: Array, present: NDArray[np.uint8] | None, dy: Array, d_w: Array, d_bias: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        """Gradients of the last `lstm_forward` with this `memory`, from the last step to the first.

        dh += dy[:, t]            dc += dh * o * (1 - tanh(c)^2)
        da = [dc g i (1 - i), dc c' f (1 - f), dc i (1 - g^2), dh tanh(c) o (1 - o)]      into gates[:, t]
        dh = da @ w.T             dc = dc * f          for the step before; nothing comes from behind the last
        d_w = sum_t h'.T @ da     d_bias = sum of da over all steps and sequences
        """

    def gru_forward(
        self, gates: Array, w: Array, inner: Array, state: Array, present: NDArray[np.uint8] | None, y: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        """Run a GRU over all steps (Cho et al. 2014; the variant of cuDNN and PyTorch).

        For every step, with p = gates[:, t] and q = h' w, each in three parts of H columns:
        r, z = sigmoid(p + q)     u = q + inner        n = tanh(p + r * u)      in the order r, z, n
        h = (1 - z) * n + z * h'
        gates : (B, T, 3H); in: what the inputs add, with the bias; out: r, z, n
        w : (H, 3H);  inner : (H,), the bias inside n
        state : (1, B, H); in: h before the first step; out: after the last
        y : (B, T, H), every h
        """

    def gru_backward(
        self, gates: Array, w: Array, present: NDArray[np.uint8] | None, dy: Array, d_w: Array, d_bias: Array,
        d_inner: Array, memory: Buffers,
    ) -> None:  # fmt: skip
        """Gradients of the last `gru_forward` with this `memory`, from the last step to the first.

        dh += dy[:, t]            dn = dh (1 - z) (1 - n^2)                     before its tanh
        dr = dn u r (1 - r)       dz = dh (h' - n) z (1 - z)                    before their sigmoids
        dp = [dr, dz, dn]         into gates[:, t]
        dq = [dr, dz, dn * r]     dh = dh * z + dq @ w.T                        for the step before
        d_w = sum_t h'.T @ dq     d_bias = sum of dp     d_inner = sum of dn * r
        """
