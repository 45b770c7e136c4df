"""The contract of recurrent networks in plain NumPy: any float dtype, one line per equation."""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.backend import Array, Buffers, NoiseKey
from svd_numpy.kernels.philox import gaussian


def _sigmoid(a: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * a))


def _absent(present: Array | None, t: int) -> Array | None:
    """Which sequences have only padding at a step, (B, 1); None if none has."""
    return None if present is None else present[:, t, None] == 0


class ReferenceRecurrence:
    """NumPy implementation of `svd_numpy.kernels.recurrence.Recurrence`, where the equations are documented."""

    def sample_weights(  # noqa: D102
        self, theta: Array, log_sigma2: Array, keep: float, key: NoiseKey, rows: Array | None, w: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        sigma, noise = np.exp(log_sigma2 / 2), gaussian(key, len(theta), theta.shape[1], theta.dtype)
        w[:] = np.where(theta**2 >= keep * sigma**2, theta, 0) + sigma * noise
        memory.get("r", theta.shape, theta.dtype)[:] = noise / (2 * sigma)

    def sample_weights_backward(self, d_w: Array, d_sigma2: Array, memory: Buffers) -> None:  # noqa: D102
        d_sigma2[:] = d_w * memory.get("r", d_w.shape, d_w.dtype)

    def take_rows(self, table: Array, tokens: Array, bias: Array | None, y: Array) -> None:  # noqa: D102
        y[:] = table[tokens] if bias is None else table[tokens] + bias

    def take_rows_backward(self, tokens: Array, dy: Array, d_table: Array) -> None:  # noqa: D102
        d_table[:] = 0
        np.add.at(d_table, tokens, dy)

    def lstm_forward(  # noqa: D102
        self, gates: Array, w: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        steps, (h, c) = gates.shape[1], state.copy()
        before = memory.get("before", (2, *y.shape), y.dtype)  # h and c before each step
        tanh_c = memory.get("tanh_c", y.shape, y.dtype)
        for t in range(steps):
            before[:, :, t] = h, c
            i, f, g, o = np.split(gates[:, t] + h @ w, 4, axis=1)
            i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
            new_c = f * c + i * g
            tanh_c[:, t] = np.tanh(new_c)
            new_h = o * tanh_c[:, t]
            gates[:, t] = np.hstack([i, f, g, o])
            absent = _absent(present, t)
            h, c = (new_h, new_c) if absent is None else (np.where(absent, h, new_h), np.where(absent, c, new_c))
            y[:, t] = h
        state[:] = h, c

    def lstm_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array, memory: Buffers
    ) -> None:
        before = memory.get("before", (2, *dy.shape), dy.dtype)
        tanh_c = memory.get("tanh_c", dy.shape, dy.dtype)
        dh, dc = np.zeros_like(dy[:, 0]), np.zeros_like(dy[:, 0])
        for t in reversed(range(gates.shape[1])):
            i, f, g, o = np.split(gates[:, t], 4, axis=1)
            dh = dh + dy[:, t]
            d_c = dc + dh * o * (1 - tanh_c[:, t] ** 2)
            da = np.hstack(
                [
                    d_c * g * i * (1 - i),
                    d_c * before[1, :, t] * f * (1 - f),
                    d_c * i * (1 - g**2),
                    dh * tanh_c[:, t] * o * (1 - o),
                ]
            )
            absent = _absent(present, t)
            if absent is None:
                dh, dc = da @ w.T, d_c * f
            else:
                da = np.where(absent, 0, da)
                dh, dc = np.where(absent, dh, da @ w.T), np.where(absent, dc, d_c * f)
            gates[:, t] = da
        rows = gates.reshape(-1, gates.shape[2])
        d_w[:], d_bias[:] = before[0].reshape(len(rows), -1).T @ rows, rows.sum(axis=0)

    def gru_forward(  # noqa: D102
        self, gates: Array, w: Array, inner: Array, state: Array, present: Array | None, y: Array, memory: Buffers
    ) -> None:
        steps, h, units = gates.shape[1], state[0].copy(), len(inner)
        before, u = memory.get("before", y.shape, y.dtype), memory.get("u", y.shape, y.dtype)
        for t in range(steps):
            before[:, t], p, q = h, gates[:, t], h @ w
            r, z = np.split(_sigmoid(p[:, : 2 * units] + q[:, : 2 * units]), 2, axis=1)
            u[:, t] = q[:, 2 * units :] + inner
            n = np.tanh(p[:, 2 * units :] + r * u[:, t])
            new_h = (1 - z) * n + z * h
            gates[:, t] = np.hstack([r, z, n])
            absent = _absent(present, t)
            y[:, t] = h = new_h if absent is None else np.where(absent, h, new_h)
        state[0] = h

    def gru_backward(  # noqa: D102
        self, gates: Array, w: Array, present: Array | None, dy: Array, d_w: Array, d_bias: Array, d_inner: Array,
        memory: Buffers,
    ) -> None:  # fmt: skip
        units, dh = len(d_inner), np.zeros_like(dy[:, 0])
        before, u = memory.get("before", dy.shape, dy.dtype), memory.get("u", dy.shape, dy.dtype)
        dq = memory.get("dq", gates.shape, gates.dtype)
        for t in reversed(range(gates.shape[1])):
            r, z, n = np.split(gates[:, t], 3, axis=1)
            dh = dh + dy[:, t]
            dn = dh * (1 - z) * (1 - n**2)
            dr, dz = dn * u[:, t] * r * (1 - r), dh * (before[:, t] - n) * z * (1 - z)
            absent, through = _absent(present, t), dh * z  # before r, z and n are overwritten
            dq[:, t], gates[:, t] = np.hstack([dr, dz, dn * r]), np.hstack([dr, dz, dn])
            if absent is not None:
                gates[:, t], dq[:, t] = np.where(absent, 0, gates[:, t]), np.where(absent, 0, dq[:, t])
                through = np.where(absent, dh, through)
            dh = through + dq[:, t] @ w.T
        rows = dq.reshape(-1, dq.shape[2])
        d_w[:] = before.reshape(len(rows), -1).T @ rows
        d_bias[:] = gates.reshape(rows.shape).sum(axis=0)
        d_inner[:] = rows[:, 2 * units :].sum(axis=0)
