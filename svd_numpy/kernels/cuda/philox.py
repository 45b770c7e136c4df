"""The field of noise on the device: Philox4x32-10 and Box-Muller, the numbers of `svd_numpy/kernels/philox.py`.

**A hash in place of a state.** A generator with a state would need one for each thread, in memory, and its numbers
would depend on which thread draws first. Philox (Salmon et al. 2011, §4.2) is a function: four counter words and two
key words in, four random words out. Here

    counter = (block of units, example, step, layer)        key = (seed low, seed high)

so that every thread draws its own numbers from its own indices, in any order, on any grid, and draws them again
whenever they are needed. Nothing is stored and nothing is shared: 0 bytes read for a number.

**A round** multiplies two of the words by constants, to 64 bits, and mixes the halves with the rest and the key:

    p0 = c0 * M0, p1 = c2 * M1        c0, c1, c2, c3 = high(p1) ^ c1 ^ k0, low(p1), high(p0) ^ c3 ^ k1, low(p0)
    k0 += W0, k1 += W1                ten times

Twenty wide multiplications for four words, which a device does more slowly than those of float32.

**Box and Muller** make two normals of two words, 24 bits of each:

    u1 = (a >> 8) / 2^24 + 2^-24 in (0, 1]        u2 = (b >> 8) / 2^24 - 1/2 in [-1/2, 1/2)
    n0 = sqrt(-2 ln u1) sin(2 pi u2)              n1 = sqrt(-2 ln u1) cos(2 pi u2)

u1 is never 0, so that no logarithm is infinite; the largest normal is sqrt(48 ln 2) = 5.8. Sine and cosine are taken
from what is left of the angle after whole quarters of a turn, by two short polynomials.

**The layout** lets one block serve a thread. Unit u of an example takes word (u // 16) % 4 of block 16 (u // 64) + u %
16: the four words of a block are units u, u + 16, u + 32 and u + 48, and those are the four columns that a thread of
`product.py` owns. Noise is drawn where it is used, at the end of a product (`sampling.py`). The three kernels here are
for what is not: noise that is looked at (`gaussian`), and the factors of dropout. There a thread draws one number and
throws three words away, some 80 integer operations for 4 bytes written, so that arithmetic and not memory is the limit.

**Same bits.** Integers are exact everywhere: the words, and with them the decisions of dropout, are those of every
other backend. Of the normals the last bit may differ, because compilers join multiplications and additions differently;
on one kind of device it does not, from run to run.

**Several runs.** The key that an operation is given names the first run's seed; run r is told in which bits its seed
differs (`located`), and a step that is played from a recording how many steps have gone by (`clock`).
"""

from __future__ import annotations

import math

import numpy as np

from svd_numpy.kernels.cuda.device import HALF, ONE, ZERO, F, U, cuda, device, kernel

U64 = np.uint64
_M0, _M1, _W0, _W1 = U64(0xD2511F53), U64(0xCD9E8D57), U64(0x9E3779B9), U64(0xBB67AE85)
_LOW, _32, _8 = U64(0xFFFFFFFF), U64(32), U(8)
_TWO_M24, _TWO_PI, _MINUS_TWO, _FOUR, _QUARTER = F(2.0**-24), F(6.283185307179586), F(-2), F(4), F(0.25)
_S1, _S2, _S3 = F(-1.6666654611e-1), F(8.3321608736e-3), F(-1.9515295891e-4)
_C1, _C2, _C3 = F(4.166664568298827e-2), F(-1.388731625493765e-3), F(2.443315711809948e-5)


@device
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds (Salmon et al. 2011, §4.2): four counter words and two key words in, four random words out."""
    c0, c1, c2, c3, k0, k1 = U64(c0), U64(c1), U64(c2), U64(c3), U64(k0), U64(k1)
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return U(c0), U(c1), U(c2), U(c3)


@device
def located(key, clock, seed):
    """Where this run's noise of this step lies: `key` (step, layer, first sample, seed low, seed high) moved on.

    clock[1] is added to the step; `seed`, two words, are the bits in which the run's seed differs from the key's.
    """
    return U(key[0] + clock[1]), key[1], key[2], key[3] ^ seed[0], key[4] ^ seed[1]


@device
def block_of(sample, block, here):
    """The four words of one block; here: what `located` returned."""
    return philox4x32(block, U(here[2] + sample), here[0], here[1], here[3], here[4])


@device
def box_muller(a, b):
    """Two words -> two standard normals: radius from `a`, angle from `b`, 24 bits of each.

    Sine and cosine are polynomials on what is left after whole quarters, an eighth of a turn either way: the library's
    would keep a table in slow memory for angles far beyond a turn.
    """
    u1 = F(a >> _8) * _TWO_M24 + _TWO_M24
    u2 = F(b >> _8) * _TWO_M24 - HALF
    radius = F(math.sqrt(_MINUS_TWO * F(math.log(u1))))
    quarter = F(math.floor(u2 * _FOUR + HALF))
    r = (u2 - quarter * _QUARTER) * _TWO_PI
    z = r * r
    s = r + r * z * (_S1 + z * (_S2 + z * _S3))
    c = ONE - HALF * z + z * z * (_C1 + z * (_C2 + z * _C3))
    # quarter is one of -2, -1, 0, 1, 2
    sine, cosine = s, c
    if quarter == ONE:
        sine, cosine = c, -s
    elif quarter == -ONE:
        sine, cosine = -c, s
    elif quarter != ZERO:
        sine, cosine = -s, -c
    return radius * sine, radius * cosine


@device
def normals(sample, block, here):
    """The four normals of one block: those of units u, u + 16, u + 32, u + 48."""
    w0, w1, w2, w3 = block_of(sample, block, here)
    n0, n1 = box_muller(w0, w1)
    n2, n3 = box_muller(w2, w3)
    return n0, n1, n2, n3


@device
def normal_at(sample, unit, here):
    """The normal of one unit."""
    w0, w1, w2, w3 = block_of(sample, U(16) * (unit // U(64)) + unit % U(16), here)
    word = (unit // U(16)) % U(4)
    first, second = w0, w1
    if word >= U(2):
        first, second = w2, w3
    sine, cosine = box_muller(first, second)
    return cosine if word % U(2) == U(1) else sine


@kernel("uuwTUF")
def gaussian(rows, units, key, clock, seed, out):
    """out[b, u] = noise(key)[b, u]; one thread an entry."""
    first, step, here = U(cuda.grid(1)), U(cuda.gridsize(1)), located(key, clock, seed)
    for i in range(first, rows * units, step):
        out[i] = normal_at(U(i) // units, U(i) % units, here)


@kernel("uuwTUfF")
def gaussian_factors(rows, units, key, clock, seed, std, out):
    """out[b, u] = 1 + std * noise(key)[b, u]; one thread an entry."""
    first, step, here = U(cuda.grid(1)), U(cuda.gridsize(1)), located(key, clock, seed)
    for i in range(first, rows * units, step):
        out[i] = ONE + std * normal_at(U(i) // units, U(i) % units, here)


@kernel("uuwTUufF")
def dropout_factors(rows, units, key, clock, seed, least, kept, out):
    """out[b, u] = kept where the unit's word without its last 8 bits is at least `least`, else 0; a thread an entry."""
    first, step, here = U(cuda.grid(1)), U(cuda.gridsize(1)), located(key, clock, seed)
    for i in range(first, rows * units, step):
        sample, unit = U(i) // units, U(i) % units
        w0, w1, w2, w3 = block_of(sample, U(16) * (unit // U(64)) + unit % U(16), here)
        word = (unit // U(16)) % U(4)
        drawn = w0
        if word == U(1):
            drawn = w1
        elif word == U(2):
            drawn = w2
        elif word == U(3):
            drawn = w3
        out[i] = kept if (drawn >> _8) >= least else ZERO
