"""Shortening a long gradient on the device: its norm over the whole arena, and one factor for all of it.

The norm is that of the data gradients for theta, log_sigma2 (sigma^2 d_sigma2) and everything else. A thread adds the
squares of its entries in float64, the parts are added in order (`sums.fold_exact`), and every thread of the second
kernel looks at the one sum: the host need not know it.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import THREADS, D, F, U, cuda, kernel
from svd_numpy.kernels.cuda.sweep import LOG_SIGMA2, NONE, PIECE, ROW, SIZE, START


@kernel("uTFFD")
def square_parts(pieces, rows, params, grads, out):
    """Sums of squares of the gradients, a part for each thread of the grid. rows : `sweep.table_of`."""
    row, total = U(0), D(0)
    for p in range(U(cuda.blockIdx.x), pieces, U(cuda.gridDim.x)):
        while rows[(row + U(1)) * ROW + PIECE] <= U(p):
            row += U(1)
        offset = (U(p) - rows[row * ROW + PIECE]) * U(THREADS) + U(cuda.threadIdx.x)
        if offset < rows[row * ROW + SIZE]:
            start, d_x = rows[row * ROW + LOG_SIGMA2], D(grads[rows[row * ROW + START] + offset])
            total += d_x * d_x
            if start != NONE:
                behind = start + offset
                d_x = D(F(math.exp(params[behind])) * grads[behind])
                total += d_x * d_x
    out[U(cuda.grid(1))] = total


@kernel("uDdF")
def shorten(count, total, most, grads):
    """Bring gradients whose squares add up to `total` down to the norm `most`, if it is larger; a thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        if total[U(0)] > most * most:
            grads[U(i)] *= F(most / math.sqrt(total[U(0)]))
