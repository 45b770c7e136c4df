"""Five ways to multiply on a GPU, each with one idea more than the one before: first = x @ b1, second = x^2 @ b2.

1. naive       a thread per result; neighbouring threads take neighbouring *rows*: a cache line is fetched for a number
2. coalesced   the same, but neighbouring threads take neighbouring columns: one cache line serves a warp
3. shared      a block copies square strips of its operands into shared memory: each number is fetched once per block
4. register    a thread computes a patch of 4 x 4: each number read from shared memory serves four multiplications
5. fused       the package's own (`svd_numpy/kernels/cuda/product.py`): wide loads, the next strip on its way, noise

All flat float32 arrays, row by row: x (M, K), b1 and b2 (K, N), first and second (M, N).
"""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.cuda.device import SIMULATED, ZERO, Kernel, U, cuda, kernel

SIDE = 4 if SIMULATED else 16  # threads of a block, down and across
PATCH = 4
SIGNATURE = "uuuFFFFF"


@kernel(SIGNATURE, "ladder_naive")
def naive(m_total, n_total, k_total, x, b1, b2, first, second):
    t = U(cuda.threadIdx.x)
    m, n = U(cuda.blockIdx.x) * U(SIDE) + t % U(SIDE), U(cuda.blockIdx.y) * U(SIDE) + t // U(SIDE)
    if m < m_total and n < n_total:
        one, two = ZERO, ZERO
        for step in range(k_total):
            k = U(step)
            a = x[m * k_total + k]
            one += a * b1[k * n_total + n]
            two += a * a * b2[k * n_total + n]
        first[m * n_total + n], second[m * n_total + n] = one, two


@kernel(SIGNATURE, "ladder_coalesced")
def coalesced(m_total, n_total, k_total, x, b1, b2, first, second):
    t = U(cuda.threadIdx.x)
    m, n = U(cuda.blockIdx.x) * U(SIDE) + t // U(SIDE), U(cuda.blockIdx.y) * U(SIDE) + t % U(SIDE)
    if m < m_total and n < n_total:
        one, two = ZERO, ZERO
        for step in range(k_total):
            k = U(step)
            a = x[m * k_total + k]
            one += a * b1[k * n_total + n]
            two += a * a * b2[k * n_total + n]
        first[m * n_total + n], second[m * n_total + n] = one, two


@kernel(SIGNATURE, "ladder_shared")
def shared(m_total, n_total, k_total, x, b1, b2, first, second):
    strip_a = cuda.shared.array((SIDE, SIDE), np.float32)
    strip_1 = cuda.shared.array((SIDE, SIDE), np.float32)
    strip_2 = cuda.shared.array((SIDE, SIDE), np.float32)
    t = U(cuda.threadIdx.x)
    ty, tx = t // U(SIDE), t % U(SIDE)
    m, n = U(cuda.blockIdx.x) * U(SIDE) + ty, U(cuda.blockIdx.y) * U(SIDE) + tx
    one, two = ZERO, ZERO
    for start in range(0, k_total, SIDE):
        k0 = U(start)
        strip_a[ty, tx] = x[m * k_total + k0 + tx] if m < m_total and k0 + tx < k_total else ZERO
        inside = n < n_total and k0 + ty < k_total
        strip_1[ty, tx] = b1[(k0 + ty) * n_total + n] if inside else ZERO
        strip_2[ty, tx] = b2[(k0 + ty) * n_total + n] if inside else ZERO
        cuda.syncthreads()
        for step in range(SIDE):
            a = strip_a[ty, U(step)]
            one += a * strip_1[U(step), tx]
            two += a * a * strip_2[U(step), tx]
        cuda.syncthreads()
    if m < m_total and n < n_total:
        first[m * n_total + n], second[m * n_total + n] = one, two


WIDE = SIDE * PATCH


@kernel(SIGNATURE, "ladder_register")
def register(m_total, n_total, k_total, x, b1, b2, first, second):
    strip_a = cuda.shared.array((SIDE, WIDE), np.float32)  # [k][m]
    strip_1 = cuda.shared.array((SIDE, WIDE), np.float32)
    strip_2 = cuda.shared.array((SIDE, WIDE), np.float32)
    one = cuda.local.array(PATCH * PATCH, np.float32)
    two = cuda.local.array(PATCH * PATCH, np.float32)
    t = U(cuda.threadIdx.x)
    ty, tx = t // U(SIDE), t % U(SIDE)
    m0, n0 = U(cuda.blockIdx.x) * U(WIDE), U(cuda.blockIdx.y) * U(WIDE)
    for i in range(PATCH * PATCH):
        one[i], two[i] = ZERO, ZERO
    for start in range(0, k_total, SIDE):
        k0 = U(start)
        for i in range(PATCH):
            m, n = m0 + ty + U(i * SIDE), n0 + tx + U(i * SIDE)
            strip_a[tx, ty + U(i * SIDE)] = x[m * k_total + k0 + tx] if m < m_total and k0 + tx < k_total else ZERO
            inside = n < n_total and k0 + ty < k_total
            strip_1[ty, tx + U(i * SIDE)] = b1[(k0 + ty) * n_total + n] if inside else ZERO
            strip_2[ty, tx + U(i * SIDE)] = b2[(k0 + ty) * n_total + n] if inside else ZERO
        cuda.syncthreads()
        for step in range(SIDE):
            k = U(step)
            for i in range(PATCH):
                a = strip_a[k, ty + U(i * SIDE)]
                for j in range(PATCH):
                    one[i * PATCH + j] += a * strip_1[k, tx + U(j * SIDE)]
                    two[i * PATCH + j] += a * a * strip_2[k, tx + U(j * SIDE)]
        cuda.syncthreads()
    for i in range(PATCH):
        for j in range(PATCH):
            m, n = m0 + ty + U(i * SIDE), n0 + tx + U(j * SIDE)
            if m < m_total and n < n_total:
                first[m * n_total + n], second[m * n_total + n] = one[i * PATCH + j], two[i * PATCH + j]


RUNGS: dict[str, tuple[Kernel, int]] = {  # name -> kernel, results of a block down and across
    "naive": (naive, SIDE),
    "coalesced": (coalesced, SIDE),
    "shared": (shared, SIDE),
    "register": (register, WIDE),
}


def run(name: str, sizes: tuple[int, int, int], arrays: tuple[object, ...]) -> None:
    """Launch one rung on device arrays (x, b1, b2, first, second)."""
    rung, side = RUNGS[name]
    m, n, k = sizes
    rung.launch((-(-m // side), -(-n // side)), SIDE * SIDE, (U(m), U(n), U(k), *arrays))
