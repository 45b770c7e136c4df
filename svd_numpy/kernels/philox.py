"""Counter-based Gaussian noise in plain NumPy: Philox4x32-10 and Box-Muller.

The generator has no state: a block of four random words is a hash of a counter and a key, so any part of the noise can
be computed anywhere, in any order (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import NoiseKey

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds of Philox4x32.

    Parameters
    ----------
    counter : four arrays (or numbers) of 32-bit words that broadcast to one shape S
    key : two 32-bit words

    Returns
    -------
    array (4, *S) of 32-bit words, stored as uint64
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _32) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) % 2**32, (k1 + _W1) % 2**32
    return np.stack([c0, c1, c2, c3])


def gaussian(key: NoiseKey, rows: int, units: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Standard normals, array (rows, units), as `NoiseKey` defines them.

    Two words a, b make two normals: sqrt(-2 ln u1) * (sin, cos)(2 pi u2) with u1 = ((a >> 8) + 1) / 2^24 and
    u2 = (b >> 8) / 2^24 - 1/2.
    """
    groups = -(-units // 64)
    blocks = np.arange(16 * groups).reshape(1, groups, 16)
    samples = (key.first_sample + np.arange(rows)).reshape(rows, 1, 1)
    words = philox4x32((blocks, samples, key.step, key.layer), (key.seed % 2**32, key.seed // 2**32 % 2**32))
    uniforms = (words >> np.uint64(8)).astype(np.float64) / 2.0**24
    radius = np.sqrt(-2.0 * np.log(uniforms[0::2] + 2.0**-24))  # (2, rows, groups, 16)
    angle = 2.0 * np.pi * (uniforms[1::2] - 0.5)
    pairs = np.stack([radius * np.sin(angle), radius * np.cos(angle)])  # (2 of a pair, 2 pairs, rows, groups, 16)
    normals = pairs.transpose(2, 3, 1, 0, 4).reshape(rows, 64 * groups)
    return np.ascontiguousarray(normals[:, :units], dtype=dtype)
