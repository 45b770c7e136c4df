"""Matrix products for one thread: operands packed into panels, and the walk over the register tiles of `tiles.py`.

B is packed once into panels, a few vectors wide, so that the loads of the micro-kernel are contiguous. A is prepared
one tile of rows at a time: it stays in place if its rows are contiguous in k, and is copied if its columns are, so that
x @ theta and x.T @ dy use the same code. Its squares are computed, and the k where the tile is not all 0 are listed.
Every element of C is summed over k in order, whatever the tile and the thread: the bits do not depend on how the work
was split.

Addresses travel as integers (`address(array)`); strides and sizes are counted in float32.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.simd import ZERO, address, exp32, own_function, prefetch, wide_vectors
from svd_numpy.kernels.cpu.tiles import (
    KC,
    LANES,
    MR,
    PANEL,
    append_if,
    append_lanes,
    copy_vector,
    micro_kernel,
    nonzero_lanes,
    square_vector,
    transpose_tile,
)

NC = 320 // PANEL * PANEL  # columns are cut into blocks of this: a tile of A is prepared anew for each
_AHEAD = 3  # rows of weights asked for before they are packed
TILE = 1024 * LANES  # floats of a prepared tile of A, of LANES rows of weights, or of one long row of them
PACKED = KC * NC  # floats of a packed block of B
MULTIPLY = 2 * TILE + 3 * KC + 64  # floats of `multiply`'s private memory


@kernel()
def panels(rows, count, a_list, b_list, a_rows, b, b_panel, columns, c, c_row, add):
    """One tile of A, of at most MR rows, against all panels of B; an incomplete tile goes in twos and ones.

    All but `add` are sizes and addresses: see `micro_kernel`; b_panel : bytes from one panel to the next
    """
    own_function()
    for n in range(0, columns, PANEL):
        width, r = min(PANEL, columns - n), np.int64(0)
        vectors = (width + LANES - 1) // LANES
        while r < rows:
            some = rows if rows == MR else min(np.int64(2), rows - r)
            micro_kernel(some, vectors, count, a_list, b_list, a_rows + 8 * r, b + n // PANEL * b_panel,
                         c + 4 * (n + r * c_row), c_row, width, add)  # fmt: skip
            r += some


@kernel()
def list_k(rows, k_count, a, a_row, ks):
    """List the k where rows contiguous in k are not all 0; a list is never empty."""
    count = 0
    for k in range(0, k_count, LANES):
        lanes, found = min(LANES, k_count - k), np.int64(0)
        for r in range(rows):
            found |= nonzero_lanes(a + 4 * (r * a_row + k), lanes)
        count += append_lanes(ks + 4 * count, k, found)
    return count if count > 0 else append_lanes(ks, 0, 1)


@kernel()
def _collect_columns(rows, k_count, a, a_k, tile, ks):
    """Copy pieces of `rows` floats, one per k, one vector behind the other into a tile, those that are all 0 left out.

    ks becomes the list of the others; it is never empty.
    """
    count = 0
    for k in range(k_count):
        at = a + 4 * k * a_k
        found = nonzero_lanes(at, rows) != 0
        copy_vector(at, tile + 4 * count * LANES, rows, False)
        count += append_if(ks + 4 * count, k, found)
    return count if count > 0 else append_if(ks, 0, True)


@kernel()
def _scale_list(ks, factor, out):
    wide_vectors()
    for i in range(len(ks)):
        out[i] = ks[i] * factor


@kernel()
def multiply(m_count, k_count, a, a2, a_row, a_k, b, b2, columns, c, c2, c_row, add, scratch):
    """C[:m_count, :columns] (+)= A @ B, and if b2 is not 0 also C2 (+)= A2 @ B2; matrices are given by addresses.

    a : of A[0, 0]; one of the strides a_row, a_k is 1
    a2 : of A2[0, 0], with A's strides and 0 wherever A is 0; or 0 for the squares of A
    b, b2 : of panels of B and B2 as written by one of the `pack_*` functions below
    c, c2 : of C[0, 0] and C2[0, 0]
    scratch : array of MULTIPLY floats
    """
    own_function()
    numbers = scratch[2 * TILE :].view(np.int32)
    ks, a_list, b_list = numbers[:KC], numbers[KC : 2 * KC], numbers[2 * KC : 3 * KC]
    rows1, rows2 = numbers[3 * KC : 3 * KC + 32].view(np.int64), numbers[3 * KC + 32 :].view(np.int64)
    tile, tile2 = address(scratch), address(scratch) + 4 * TILE
    for m in range(0, m_count, MR):
        rows, at = min(MR, m_count - m), a + 4 * m * a_row
        if a_k == 1:
            count = list_k(rows, k_count, at, a_row, address(ks))
            _scale_list(ks[:count], np.int32(4), a_list)
            for r in range(rows):
                rows1[r] = at + 4 * r * a_row
                rows2[r] = a2 + 4 * (m + r) * a_row if a2 != 0 else tile2 + 4 * r * KC
                if b2 != 0 and a2 == 0:
                    for k in range(0, k_count, LANES):
                        square_vector(rows1[r] + 4 * k, rows2[r] + 4 * k, min(LANES, k_count - k))
        else:
            count = _collect_columns(rows, k_count, at, a_k, tile, address(ks))
            for i in range(count):
                a_list[i] = 4 * LANES * i
                if b2 != 0:
                    square_vector(tile + 4 * LANES * i, tile2 + 4 * LANES * i, LANES)
            for r in range(rows):
                rows1[r], rows2[r] = tile + 4 * r, tile2 + 4 * r
        _scale_list(ks[:count], np.int32(4 * PANEL), b_list)
        lists = address(a_list), address(b_list)
        panels(rows, count, *lists, address(rows1), b, 4 * PANEL * k_count, columns, c + 4 * m * c_row, c_row, add)
        if b2 != 0:
            panels(
                rows, count, *lists, address(rows2), b2, 4 * PANEL * k_count, columns, c2 + 4 * m * c_row, c_row, add
            )


@kernel()
def pack_row(source, columns, k, k_count, out):
    """Spread one row of B, `columns` floats at address `source`, over the panels at address `out`."""
    target = out + 4 * PANEL * k
    for n in range(0, columns, PANEL):
        width = min(PANEL, columns - n)
        for lane in range(0, width - LANES + 1, LANES):
            copy_vector(source + 4 * (n + lane), target + 4 * lane, LANES, False)
        if width % LANES != 0:
            lane = width // LANES * LANES
            copy_vector(source + 4 * (n + lane), target + 4 * lane, width % LANES, False)
        target += 4 * PANEL * k_count


@kernel()
def pack(b, k0, k1, n0, n1, out):
    """Pack b[k0:k1, n0:n1] into panels: panel p holds, for each k in turn, PANEL columns."""
    source, target = address(b) + 4 * n0, address(out)
    for k in range(k0, k1):
        pack_row(source + 4 * k * b.shape[1], n1 - n0, k - k0, k1 - k0, target)


@kernel()
def weights_row(theta, log_sigma2, keep, mean, var):
    """mean = theta where theta^2 >= keep * sigma^2, else 0;  var = sigma^2."""
    wide_vectors()
    for j in range(len(theta)):
        sigma2 = exp32(log_sigma2[j])
        mean[j] = theta[j] if theta[j] * theta[j] >= keep * sigma2 else ZERO
        var[j] = sigma2


@kernel()
def pack_weights(theta, log_sigma2, keep, x, k0, k1, n0, n1, out_mean, out_var, work):
    """Pack rows k0..k1, columns n0..n1 of theta and of sigma^2 = exp(log_sigma2), as far as x @ theta needs them.

    A mean stays only where theta^2 >= keep * sigma^2, that is where log_alpha <= -ln(keep); keep = 0 keeps all. Rows
    of inputs that are 0 in all of x (B, I) are left out: they stand in no list. Row k0 may stand in any (`list_k`).
    """
    own_function()
    rows, n_in, n_out = len(x), theta.shape[0], theta.shape[1]
    mean, var, used = work[:NC], work[NC : 2 * NC], work[2 * NC : 2 * NC + k1 - k0 + 1].view(np.int32)
    used[0] = 0
    count = 1 + list_k(rows, k1 - k0, address(x) + 4 * k0, n_in, address(used) + 4)
    for i in range(count):
        k = np.int64(used[i])
        if i + _AHEAD < count:
            ahead = 4 * ((k0 + used[i + _AHEAD]) * n_out + n0)
            prefetch(address(theta) + ahead, 4 * (n1 - n0))
            prefetch(address(log_sigma2) + ahead, 4 * (n1 - n0))
        weights_row(theta[k0 + k, n0:n1], log_sigma2[k0 + k, n0:n1], keep, mean, var)
        pack_row(address(mean), n1 - n0, k, k1 - k0, address(out_mean))
        pack_row(address(var), n1 - n0, k, k1 - k0, address(out_var))


@kernel()
def pack_weights_transposed(theta, log_sigma2, keep, k0, k1, n0, n1, k_count, out_mean, out_var, work):
    """Pack theta.T and sigma^2.T for dy @ theta.T: k over outputs, n over inputs. Means are masked as above.

    k_count : rows of the packed panels, k1 - k0 or more
    Where log_sigma2 is empty, theta is packed as it is and alone.
    """
    own_function()
    mean, var = work[:TILE], work[TILE : 2 * TILE]  # LANES rows of theta and sigma^2
    both = log_sigma2.size > 0
    for j in range(0, n1 - n0, LANES):
        rows = min(LANES, n1 - n0 - j)
        if both:
            for r in range(rows):
                i = n0 + j + r
                weights_row(theta[i, k0:k1], log_sigma2[i, k0:k1], keep, mean[r * KC :], var[r * KC :])
        for k in range(0, k1 - k0, LANES):
            columns, at = min(LANES, k1 - k0 - k), 4 * (PANEL * (j // PANEL * k_count + k) + j % PANEL)
            if both:
                transpose_tile(address(mean) + 4 * k, KC, rows, columns, address(out_mean) + at, PANEL)
                transpose_tile(address(var) + 4 * k, KC, rows, columns, address(out_var) + at, PANEL)
            else:
                source = address(theta) + 4 * ((n0 + j) * theta.shape[1] + k0 + k)
                transpose_tile(source, theta.shape[1], rows, columns, address(out_mean) + at, PANEL)
