"""How the work of a matrix product is cut into tiles and slices: a function of its shape alone.

**Tiles.** `product.py` computes M x N sums over K. A block of threads takes BM x BN of them, a thread TM x TN, and the
block walks along k in steps of BK. Three quantities pull in different directions:

    numbers fetched per multiply-add, from memory      (BM + 2 BN) / (2 BM BN)      wants large BM, BN
    numbers fetched per multiply-add, from shared      (TM + TN) / (TM TN)          wants large TM, TN
    blocks there are                                   M / BM * N / BN              wants small BM, BN

The 2 counts the two products, mean and variance, that share what is fetched of A. Registers end the second: a thread
holds 2 TM TN sums, and beyond 128 registers only one block of 256 threads fits into the 65,536 of a multiprocessor, too
few to hide the latency of its loads; the compiler is told so (`Tile.registers`), and spills none. So there are two
tiles:

    large   128 x 64 x 8, 8 x 4 a thread   256 threads, 25 KB shared, 64 multiply-adds per 24 numbers from shared
    small   32 x 64 x 16, 4 x 4 a thread   128 threads, 26 KB shared, 32 multiply-adds per 16 numbers from shared

Of shared memory, half is multiplied while the other half is written. A step of the large tile is shorter: 16 would be
50 KB, above the 48 that a kernel may have without asking for more.

The large one is taken where it gives at least `ENOUGH_BLOCKS` blocks, about one for each multiprocessor of a large
device: that is from about 1,024 x 1,024 results on. BN is 16 TN in both because a thread's columns lie 16 apart, which
is what makes one Philox block the noise of four of them (`sampling.py`).

**Slices.** The layers of a small network have few results and, in the gradients of weights of a convolution, very long
sums: LeNet-5's first convolution has 25 x 20 of them, each over the 57,600 positions of a batch of 100. One small tile
would keep one multiprocessor busy and 131 idle. The sum over k is then cut into slices of `SHORTEST` terms or more, as
many as bring the number of blocks to `WANTED_BLOCKS`; each slice writes its part of every sum, and `finish.py` adds the
parts. That costs 2 x 8 bytes of traffic for each result and slice (the parts are written and read, of mean and
variance), so that a slice must be long enough to be worth it, and a thread of `finish.py` adds the parts of a result
one after the other, so that there are at most `MOST_SLICES`.

**Why the shape alone.** Float addition is not associative: another cut is another rounding. The plan therefore asks
neither how many multiprocessors there are nor how many runs share the launch. The same shapes give the same bits on
every device of a kind, and run r of sixteen the bits of the same run alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from svd_numpy.kernels.cuda.device import SIMULATED

FORWARD, INPUTS, WEIGHTS = "forward", "inputs", "weights"
PASSES = (FORWARD, INPUTS, WEIGHTS)


class Tile(NamedTuple):
    """Sizes of a tile (`BM`, `BN`, `BK`) and of a thread's patch (`TM`, `TN`); BN and 16 TN are the same."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        """Threads of a block: 16 across."""
        return 16 * (self.bm // self.tm)

    @property
    def registers(self) -> int | None:
        """Registers of a thread at most, so that two blocks of 256 threads fit into a multiprocessor; None: any."""
        return 128 if self.threads >= 256 else None


# Few blocks and short sums want the small one; large products the large one.
SMALL = Tile(4, 64, 8, 4, 4) if SIMULATED else Tile(32, 64, 16, 4, 4)
LARGE = Tile(16, 64, 8, 8, 4) if SIMULATED else Tile(128, 64, 8, 8, 4)
TILES = {"small": SMALL, "large": LARGE}


class Plan(NamedTuple):
    """Which tile a product takes, and in how many slices its sum over k is cut."""

    tile: str
    slices: int
    length: int  # of a slice


ENOUGH_BLOCKS = 128  # of large tiles to fill a device
WANTED_BLOCKS = 512  # of small tiles, slices counted
SHORTEST = 128  # of a slice: below, adding parts costs more than it brings
MOST_SLICES = 128  # whose parts a thread adds one after the other: of 450, that took 23 µs of an H200


def plan(m: int, n: int, k: int) -> Plan:
    """Cut a product of M x N sums over K: a function of the shape alone, so that the bits are those of every device."""

    def blocks(tile: Tile) -> int:
        return math.ceil(m / tile.bm) * math.ceil(n / tile.bn)

    if blocks(LARGE) >= ENOUGH_BLOCKS:
        return Plan("large", 1, k)
    slices = max(1, min(WANTED_BLOCKS // blocks(SMALL), k // SHORTEST, MOST_SLICES))
    length = math.ceil(k / slices / SMALL.bk) * SMALL.bk
    return Plan("small", math.ceil(k / length), length)
