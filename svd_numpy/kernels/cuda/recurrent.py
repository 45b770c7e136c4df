"""Recurrent networks on the device: one launch a step, one thread a unit of a sequence.

**A step of an LSTM** is a product and a cell. Thread (b, u) of the B H threads adds up the four gates of unit u,

    a_j = gates[b, t, j H + u] + sum_k h[b, k] w[k, j H + u]          j = 0..3

makes i, f, g, o of them, and from these c and h of its own unit. It needs all h of the step before, which other threads
have made; so a step is a launch, and between two launches everything is written. h comes from the outputs y of the step
before, or from the state before the first, and no thread writes what another one reads in the same launch.

**Backward** is one launch a step, too. What comes from behind is a product with the gradients of the step after,

    dh[b, u] = dy[b, t, u] + sum_j da[b, t + 1, j] w[u, j]

and da of a step are four numbers that thread (b, u) alone writes, over i, f, g and o. The gradients of the weights are
one product over all steps at the end, that of a dense layer (`product.py`).

**Cost.** Neighbouring threads read neighbouring columns of w, and all of a sequence the same h, so that a forward step
of 128 units reads w (256 KB) from the second-level cache for every sequence: 64 x 256 KB a step, some 10 microseconds
of a large device, beside a launch of some 3. Tiles of sequences in shared memory would read w once for many of them;
that is worth it once there are more units than fit into that cache.

**Padding.** Where `present` is 0, h and c, and on the way back their gradients, pass as they are.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import HALF, ONE, TWO, ZERO, F, U, cuda, device, kernel
from svd_numpy.kernels.cuda.dials import DIALS, KEEP
from svd_numpy.kernels.cuda.philox import located, normal_at


@device
def tanh(a):
    """In float32."""
    return F(math.tanh(a))


@device
def sigmoid(a):
    """1 / (1 + exp(-a)), by tanh, which does not overflow."""
    return HALF + HALF * F(math.tanh(HALF * a))


@kernel("uuFFFwTUFF")
def sample_weights(count, columns, theta, log_sigma2, dials, key, clock, seed, w, r):
    """w = theta' + sigma * noise and r = noise / (2 sigma); one thread a weight. Its row is the sample of the noise."""
    here, keep = located(key, clock, seed), dials[clock[0] * DIALS + KEEP]
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        sigma, theta_e = F(math.exp(HALF * log_sigma2[e])), theta[e]
        noise = normal_at(e // columns, e % columns, here)
        w[e] = (theta_e if theta_e * theta_e >= keep * (sigma * sigma) else ZERO) + sigma * noise
        r[e] = noise / (TWO * sigma)


@kernel("uuFLuFF")
def take_rows(count, columns, table, tokens, biased, bias, y):
    """y[n] = table[tokens[n]] (+ bias); one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        column = e % columns
        value = table[U(tokens[e // columns]) * columns + column]
        y[e] = value + bias[column] if biased == U(1) else value


@kernel("uuuLFF")
def take_rows_backward(count, columns, rows, tokens, dy, d_table):
    """d_table[v] = sum of dy[n] over the n with tokens[n] = v, in their order; one thread an entry of the table."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        token, column, total = e // columns, e % columns, ZERO
        for n in range(rows):
            if U(tokens[U(n)]) == token:
                total += dy[U(n) * columns + column]
        d_table[e] = total


@kernel("uuuuFFFuBFFFF")
def lstm_step(count, steps, units, t, gates, w, state, padded, present, y, before, c_before, tanh_c):
    """Step t of an LSTM; one thread a sequence and unit. state (2, B, H): c changes here, h only behind the last."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        b, u = e // units, e % units
        row = b * steps + t
        own, a = row * units + u, row * U(4) * units + u
        last = (row - U(1)) * units if t > U(0) else b * units
        a0, a1, a2, a3 = gates[a], gates[a + units], gates[a + U(2) * units], gates[a + U(3) * units]
        for k in range(units):
            h = y[last + U(k)] if t > U(0) else state[last + U(k)]
            at = U(k) * U(4) * units + u
            a0 += h * w[at]
            a1 += h * w[at + units]
            a2 += h * w[at + U(2) * units]
            a3 += h * w[at + U(3) * units]
        a0, a1, a2, a3 = sigmoid(a0), sigmoid(a1), tanh(a2), sigmoid(a3)
        h_last, c_last = y[last + u] if t > U(0) else state[last + u], state[count + e]
        c = a1 * c_last + a0 * a2
        size = tanh(c)
        gates[a], gates[a + units], gates[a + U(2) * units], gates[a + U(3) * units] = a0, a1, a2, a3
        before[own], c_before[own], tanh_c[own] = h_last, c_last, size
        there = padded == U(0) or U(present[row]) == U(1)
        y[own] = a3 * size if there else h_last
        if there:
            state[count + e] = c


@kernel("uuuuFFuBFFFFF")
def lstm_step_back(count, steps, units, t, gates, w, padded, present, dy, dh, dc, c_before, tanh_c):
    """Gradients of step t; one thread a sequence and unit. dh, dc (B, H) are what came from behind, for itself."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        b, u = e // units, e % units
        row = b * steps + t
        own, a = row * units + u, row * U(4) * units + u
        d_h, d_c = dy[own], ZERO
        if t + U(1) < steps:
            d_c = dc[e]
            if padded == U(1) and U(present[row + U(1)]) == U(0):
                d_h += dh[e]
            else:
                behind, at = (row + U(1)) * U(4) * units, u * U(4) * units
                for j in range(U(4) * units):
                    d_h += gates[behind + U(j)] * w[at + U(j)]
        dh[e] = d_h
        if padded == U(1) and U(present[row]) == U(0):
            gates[a], gates[a + units], gates[a + U(2) * units], gates[a + U(3) * units] = ZERO, ZERO, ZERO, ZERO
            dc[e] = d_c
        else:
            i_, f, g, o = gates[a], gates[a + units], gates[a + U(2) * units], gates[a + U(3) * units]
            size = tanh_c[own]
            d_c += d_h * o * (ONE - size * size)
            gates[a] = d_c * g * i_ * (ONE - i_)
            gates[a + units] = d_c * c_before[own] * f * (ONE - f)
            gates[a + U(2) * units] = d_c * i_ * (ONE - g * g)
            gates[a + U(3) * units] = d_h * size * o * (ONE - o)
            dc[e] = d_c * f


@kernel("uuuuFFFFuBFFF")
def gru_step(count, steps, units, t, gates, w, inner, state, padded, present, y, before, u_inside):
    """Step t of a GRU; one thread a sequence and unit. state (1, B, H) changes behind the last step only."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        b, u = e // units, e % units
        row = b * steps + t
        own, a = row * units + u, row * U(3) * units + u
        last = (row - U(1)) * units if t > U(0) else b * units
        q0, q1, q2 = ZERO, ZERO, ZERO
        for k in range(units):
            h = y[last + U(k)] if t > U(0) else state[last + U(k)]
            at = U(k) * U(3) * units + u
            q0 += h * w[at]
            q1 += h * w[at + units]
            q2 += h * w[at + U(2) * units]
        h_last = y[last + u] if t > U(0) else state[last + u]
        r, z, inside = sigmoid(gates[a] + q0), sigmoid(gates[a + units] + q1), q2 + inner[u]
        n = tanh(gates[a + U(2) * units] + r * inside)
        gates[a], gates[a + units], gates[a + U(2) * units] = r, z, n
        before[own], u_inside[own] = h_last, inside
        there = padded == U(0) or U(present[row]) == U(1)
        y[own] = (ONE - z) * n + z * h_last if there else h_last


@kernel("uuuuFFuBFFFFF")
def gru_step_back(count, steps, units, t, gates, w, padded, present, dy, through, before, u_inside, dq):
    """Gradients of step t; one thread a sequence and unit. through (B, H) is what passed the step after, for itself."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        b, u = e // units, e % units
        row = b * steps + t
        own, a = row * units + u, row * U(3) * units + u
        d_h = dy[own]
        if t + U(1) < steps:
            d_h += through[e]
            behind, at = (row + U(1)) * U(3) * units, u * U(3) * units
            for j in range(U(3) * units):
                d_h += dq[behind + U(j)] * w[at + U(j)]
        dr, dz, dn, r = ZERO, ZERO, ZERO, ZERO
        if padded == U(1) and U(present[row]) == U(0):
            through[e] = d_h
        else:
            r, z, n = gates[a], gates[a + units], gates[a + U(2) * units]
            dn = d_h * (ONE - z) * (ONE - n * n)
            dr = dn * u_inside[own] * r * (ONE - r)
            dz = d_h * (before[own] - n) * z * (ONE - z)
            through[e] = d_h * z
        gates[a], gates[a + units], gates[a + U(2) * units] = dr, dz, dn
        dq[a], dq[a + units], dq[a + U(2) * units] = dr, dz, dn * r
