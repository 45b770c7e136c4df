# %% [markdown]
# # How does a GPU see this layer?
#
# ![Two recordings of sixteen threads, touch by touch](pictures/07_think_like_a_gpu.png)
#
# Read it like a score: sixteen threads, one line each, time running to the right. Orange is a fetch from far away, blue a look at what lies at hand. Both halves
# compute the same sixteen numbers. In the lower one the threads work together, and by the end of this page you will have written it.
#
# **What you'll do.** Solve seven puzzles. Each is a CUDA kernel of a few lines, and the last one is a whole Sparse VD layer: both matrix products, the
# noise, one launch. No GPU is needed: Numba's simulator runs the kernels as ordinary Python threads.
#
# **What you'll learn.** To think in threads, blocks and barriers; why neighbours should read neighbours; why sums and noise can have the same bits
# every time; and to count memory traffic, which says more about a kernel than a stopwatch on a toy.
#
# **What you'll need.** NumPy and the forward pass of the layer ([notebook 2](02_tame_the_noise.ipynb)). About 60 minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import math
import os
import sys
import threading
from collections import Counter, namedtuple
from contextlib import redirect_stdout
from unittest.mock import patch

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # simulate CUDA; Numba reads this once, when it is imported

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numba import cuda
from numba.cuda.simulator.kernel import BlockThread
from numba.cuda.simulator.kernelapi import FakeCUDAShared

import svd_numpy as svd
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests draw less
F, U64, ZERO = np.float32, np.uint64, np.float32(0)
rng = np.random.default_rng(0)


# %% tags=["helpers"]
Touch = namedtuple("Touch", "block thread epoch moment at index wrote")


class Traced:
    """An array that remembers who touched it. `epoch`: barriers a thread has passed; `moment`: its touches of this array, `at`: of all."""

    def __init__(self, array):
        self.array, self.shape, self.size = array, array.shape, array.size
        self.touches, self.moments = [], Counter()

    def note(self, index, wrote):
        me = threading.current_thread()
        who = tuple(me.blockIdx), tuple(me.threadIdx)
        index = tuple(map(int, index)) if isinstance(index, tuple) else int(index)
        me.at = getattr(me, "at", -1) + 1
        self.touches.append(Touch(*who, getattr(me, "epoch", 0), self.moments[who], me.at, index, wrote))
        self.moments[who] += 1

    def __getitem__(self, index):
        self.note(index, False)
        return self.array[index]

    def __setitem__(self, index, value):
        self.note(index, True)
        self.array[index] = value


def launch(kernel, blocks, threads, *arguments):
    """Run a kernel in the simulator; return its shared arrays, traced."""
    made, barriers = {}, {}

    def shared_array(self, shape, dtype):  # one array for each line of source, as in the simulator
        return made.setdefault(sys._getframe(1).f_lineno, Traced(np.full(shape, np.nan, dtype)))

    def barrier(self, plain=BlockThread.syncthreads):
        self.epoch = getattr(self, "epoch", 0) + 1
        barriers.setdefault(tuple(self.blockIdx), {})[tuple(self.threadIdx)] = self.epoch
        plain(self)

    with patch.object(FakeCUDAShared, "array", shared_array), patch.object(BlockThread, "syncthreads", barrier):
        kernel[blocks, threads](*arguments)
    if any(len(passed) < np.prod(threads) or len({*passed.values()}) > 1 for passed in barriers.values()):
        raise RuntimeError("some threads of a block miss a barrier; on a GPU the others may wait for ever")
    return list(made.values())


def races(array, shared):
    """Places touched by two threads, one of them writing, in one epoch of a block (shared) or at any time (global)."""
    places = {}
    for touch in array.touches:
        key = (touch.block, touch.epoch, touch.index) if shared else touch.index
        places.setdefault(key, set()).add((touch.block, touch.thread, touch.wrote))
    return sum(
        any(wrote for *_, wrote in who) and len({(block, thread) for block, thread, _ in who}) > 1
        for who in places.values()
    )


def judge(kernel, blocks, threads, *inputs, expected):
    """Run a kernel; print a verdict; return all its arrays: inputs, output, shared ones."""
    arrays = [Traced(entry) if isinstance(entry, np.ndarray) else entry for entry in inputs]
    out = Traced(np.full(np.shape(expected), np.nan, np.float32))
    try:
        shared = launch(kernel, blocks, threads, *arrays, out)
    except Exception as error:
        print(f"🟥 {kernel.__name__}: {type(error).__name__}, {error}")
        return None
    found = [*arrays, out, *shared]
    reads, writes = (
        sum(touch.wrote == wrote for array in (*arrays, out) if isinstance(array, Traced) for touch in array.touches)
        for wrote in (False, True)
    )
    wrong = ~np.isclose(out.array, expected, rtol=1e-4, atol=1e-5)
    unsafe = races(out, shared=False) + sum(races(array, shared=True) for array in shared)
    if np.isnan(out.array).all():
        print(f"⬜ {kernel.__name__}: to do, nothing has been written to out")
    elif wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        print(
            f"🟥 {kernel.__name__}: out{list(at)} is {out.array[at]}, expected {expected[at]}; {wrong.sum()} are wrong"
        )
    elif unsafe:
        print(f"🟥 {kernel.__name__}: right by luck, two threads meet without a barrier at {unsafe} places")
    else:
        print(f"🟩 {kernel.__name__}: global memory was read {reads} times and written {writes} times")
    return found


def score(arrays, block=(1, 0, 0), far=10):
    """What each of 16 threads of a block does, moment by moment, if global memory takes `far` times as long as shared memory.

    0 and 1: it reads or writes global memory; 2 and 3: shared memory; NaN: it waits.
    """
    mine = sorted(
        (t.epoch, t.at, t.thread, n > 2, t.wrote) for n, a in enumerate(arrays) for t in a.touches if t.block == block
    )
    rows = [[] for _ in range(16)]
    for epoch in range(mine[-1][0] + 1):
        for _, _, (across, down, _), near, wrote in (touch for touch in mine if touch[0] == epoch):
            rows[4 * down + across] += [2 + wrote] if near else [wrote] * (far - 1) + [np.nan]
        barrier = max(map(len, rows)) + 2
        rows = [row + [np.nan] * (barrier - len(row)) for row in rows]
    return np.array(rows, float)


# %% [markdown]
# ## A machine that remembers
#
# You write the program of **one thread**. The machine runs it in thousands, and each finds out who it is: `cuda.threadIdx` is its place in its
# **block**, `cuda.blockIdx` the place of the block in the **grid**. Threads of one block share a small, fast *shared memory* and can wait for each other
# at a *barrier*. Blocks know nothing of each other. All see the large, slow *global memory*.
#
# A simulator is slow, but it can be watched. Arrays of the class `Traced`, in the folded cell above, write down every touch, so each picture of this notebook that
# shows threads is drawn from a run.

# %% [markdown]
# `judge` runs your kernels and says whether they are right. It also looks for what a GPU never tells you, a **race**: a place that two threads touch, one of them
# writing, without a barrier in between. And it refuses a barrier that only some threads of a block reach, inside an `if`, say: on a
# GPU the others may wait for ever.


# %% [markdown]
# ## Three puzzles about who does what
#
# **Puzzle 1, map.** One block, a thread per number: `out = x**2`. Your lines go where a comment asks for them. Run the cells again until the verdict is green. Then
# run the cell with `use_answer`: it runs our solution as well, since the pictures need its recordings.
#
# **Puzzle 2, guard.** Now several blocks. `cuda.grid(1)` is a thread's place in the whole grid: `blockIdx.x * blockDim.x + threadIdx.x`. Blocks have
# one size, data any: here ten numbers and three blocks of four threads.
#
# **Predict.** What do threads 10 and 11 do if nobody stops them? Here, and on a GPU?


# %%
@cuda.jit
def square(x, out):
    """out = x**2; the number of this thread has the index cuda.threadIdx.x"""
    # your lines


# %%
@cuda.jit
def square_all(x, out):
    i = cuda.grid(1)
    value = x[i]  # add a guard
    out[i] = value * value


# %%
x = rng.normal(size=10).astype(F)
_ = judge(square, 1, 10, x, expected=x**2)
_ = judge(square_all, 3, 4, x, expected=x**2)


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solutions of puzzles 1 and 2.
@cuda.jit
def square(x, out):
    i = cuda.threadIdx.x
    value = x[i]  # x[i] * x[i] would be two reads in our books
    out[i] = value * value


@cuda.jit
def square_all(x, out):
    i = cuda.grid(1)
    if i < out.size:
        value = x[i]
        out[i] = value * value


assert judge(square, 1, 10, x, expected=x**2) and judge(square_all, 3, 4, x, expected=x**2)

# %% [markdown]
# The simulator raises an error. A GPU usually does not: it reads what lies behind the array and overwrites whatever lives there.
#
# **Puzzle 3, grid-stride loop.** Let the grid not depend on the size at all: each thread does several numbers, one grid apart. `cuda.gridsize(1)` is
# the number of all threads.


# %%
@cuda.jit
def square_any(x, out):
    """out = x**2 for any size of x and any grid."""
    # your loop


# %%
x = rng.normal(size=1024).astype(F)
_ = judge(square_any, 2, 4, x[:22], expected=x[:22] ** 2)


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solution of puzzle 3.
@cuda.jit
def square_any(x, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        value = x[i]
        out[i] = value * value


assert judge(square_any, 2, 4, x[:22], expected=x[:22] ** 2)

# %% [markdown]
# Why stride? The obvious way is to give each thread a piece of its own, and both are right. But a GPU runs 32 threads, a **warp**, in lockstep: at one
# moment all 32 ask for a number. Memory answers in lines, here of 32 numbers (128 bytes).
#
# **Predict.** How many lines does a warp need at one moment, in each way?


# %%
@cuda.jit
def square_pieces(x, out):
    length = (out.size + cuda.gridsize(1) - 1) // cuda.gridsize(1)
    for i in range(cuda.grid(1) * length, min((cuda.grid(1) + 1) * length, out.size)):
        value = x[i]
        out[i] = value * value


# %%
fig, axes = plt.subplots(1, 2, figsize=(8.2, 4.2), sharey=True)
for ax, kernel, title in zip(axes, (square_pieces, square_any), ("a piece for each", "grid-stride loop"), strict=True):
    source, *_ = judge(kernel, 1, 32, x, expected=x**2)
    touched = np.zeros(1024)
    for touch in source.touches:
        touched[touch.index] = 2 if touch.moment == 5 else 1
    lines = len({touch.index // 32 for touch in source.touches if touch.moment == 5})
    ax.imshow(touched.reshape(32, 32), cmap=ListedColormap([COLOURS["dead"], COLOURS["test"]]))
    ax.set(title=f"{title}: {lines} line{'s' * (lines > 1)} at once", xlabel="place in the line", xticks=[0, 31])
    ax.grid(visible=False)
    assert lines == (32 if kernel is square_pieces else 1)
axes[0].set(ylabel="line of memory", yticks=[0, 31])
fig.suptitle("Orange: what a warp reads at its sixth moment", x=0.02, ha="left", fontsize=11)
plt.show()

# %% [markdown]
# The column costs 32 lines for 32 numbers, the row one. That is **coalescing**: neighbouring threads should touch neighbouring numbers.
#
# ## Sums with the same bits every time
#
# **Puzzle 4, reduction.** Block `b` adds 16 numbers. Eight threads add pairs into shared memory; then half of them, then a quarter, add what is left,
# with a barrier after every round.


# %%
@cuda.jit
def block_sums(x, out):
    """out[b] = x[16 * b : 16 * b + 16].sum()"""
    tree = cuda.shared.array(8, np.float32)
    t, start = cuda.threadIdx.x, 16 * cuda.blockIdx.x
    tree[t] = x[start + t] + x[start + t + 8]
    cuda.syncthreads()
    # your rounds; at the end one thread writes tree[0]


# %%
x = rng.lognormal(0, 2, 256).astype(F)
_ = judge(block_sums, 16, 8, x, expected=x.reshape(16, 16).sum(axis=1))


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solution of puzzle 4.
@cuda.jit
def block_sums(x, out):
    tree = cuda.shared.array(8, np.float32)
    t, start = cuda.threadIdx.x, 16 * cuda.blockIdx.x
    tree[t] = x[start + t] + x[start + t + 8]
    cuda.syncthreads()
    reach = 4
    while reach > 0:
        if t < reach:
            tree[t] += tree[t + reach]
        cuda.syncthreads()
        reach //= 2
    if t == 0:
        out[cuda.blockIdx.x] = tree[0]


_, parts, tree = judge(block_sums, 16, 8, x, expected=x.reshape(16, 16).sum(axis=1))
_, total, _ = judge(block_sums, 1, 8, parts.array, expected=x.sum(dtype=np.float64, keepdims=True))

# %% [markdown]
# The second launch adds the sixteen parts with the same kernel: two stages. There is a shorter way, an **atomic addition**: every thread
# adds its number straight to the total, in whatever order they arrive. But float additions round, so the order matters:

# %%
orders = 2_000 if FULL else 300
arrivals = [np.cumsum(rng.permutation(x))[-1] for _ in range(orders)]  # float32, one after the other
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2), width_ratios=(1, 1.2))
for touch in tree.touches:
    if touch.block == (0, 0, 0) and touch.wrote:
        left.plot(touch.index, touch.epoch, "s", color=COLOURS["test"], markersize=7, zorder=3)
    elif touch.block == (0, 0, 0) and touch.epoch < 4:  # after the last barrier one thread reads the result
        left.plot([touch.index, touch.thread[0]], [touch.epoch - 1, touch.epoch], color=COLOURS["train"], linewidth=1.2)
left.set(xlabel="slot of shared memory", ylabel="barriers passed", yticks=range(4), title="The tree, as it was run")
left.invert_yaxis()
exact = x.sum(dtype=np.float64)
right.hist((np.array(arrivals, np.float64) - exact) * 1e3, bins=40, color=COLOURS["pruned"], label="random orders")
right.axvline((float(total.array[0]) - exact) * 1e3, color=COLOURS["test"], linewidth=2, label="the tree, always")
right.set(
    xlabel="error of the sum × 1000", ylabel="orders", title=f"{len(set(arrivals))} different sums of 256 numbers"
)
right.legend()
fig.tight_layout()
plt.show()
assert len(set(arrivals)) > 3

# %% [markdown]
# With atomics two runs of one program may differ, and a bug that shows once may never come back. A tree whose shape depends on nothing but sizes gives the
# same bits every time, and rounds less on the way. This package uses no float atomics.
#
# ## Noise without a state
#
# A usual generator has a state, and each thread needs its own. Then the noise depends on how many threads there are. **Philox** has none: noise is a hash
# of *where* it is needed (unit, example, step, layer) and of the seed. One round, on four words $c$ and two key words $k$ of 32 bits:
#
# $$p = M_0\,c_0,\quad q = M_1\,c_2,\qquad (c_0, c_1, c_2, c_3) \leftarrow (q_\text{high} \oplus c_1 \oplus k_0,\;\; q_\text{low},\;\; p_\text{high} \oplus c_3 \oplus k_1,\;\; p_\text{low}).$$
#
# Here $\oplus$ is the exclusive or, `^`. Ten rounds make four random words, and Box–Muller makes two normals of two words. That part is given:

# %%
M0, M1, W0, W1 = U64(0xD2511F53), U64(0xCD9E8D57), U64(0x9E3779B9), U64(0xBB67AE85)
LOW, BITS = U64(0xFFFFFFFF), U64(32)
SCALE, TURN, HALF, MINUS_TWO = F(2.0**-24), F(2 * math.pi), F(0.5), F(-2)


# %%
@cuda.jit(device=True)  # a helper that kernels call
def normal(b, u, layer, step, seed):
    words = philox(U64(16 * (u // 64) + u % 16), U64(b), U64(step), U64(layer), U64(seed), U64(0))
    word = (u // 16) % 4  # the four words of a block serve units u, u + 16, u + 32, u + 48
    first, second = (words[0], words[1]) if word < 2 else (words[2], words[3])
    radius = F(math.sqrt(MINUS_TWO * F(math.log(F(first >> U64(8)) * SCALE + SCALE))))
    angle = TURN * (F(second >> U64(8)) * SCALE - HALF)
    return radius * F(math.cos(angle) if word % 2 else math.sin(angle))


# %%
@cuda.jit
def noise(layer, step, seed, out):
    """out[b, u]: the normal of example b and unit u, whoever draws it."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        b, u = i // out.shape[1], i % out.shape[1]
        out[b, u] = normal(b, u, layer, step, seed)


# %% [markdown]
# **Puzzle 5, noise.** Write the round. The products have 64 bits; `>> BITS` gives the high half, `& LOW` the low one. The judge is the package's
# noise, in NumPy.


# %%
@cuda.jit(device=True)
def philox(c0, c1, c2, c3, k0, k1):
    for _ in range(10):
        # p, q = M0 * c0, M1 * c2, and your line
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


# %%
wanted = get_backend("numpy").noise(NoiseKey(seed=3, layer=1, step=2), 6, 24)
_ = judge(noise, 2, 4, 1, 2, 3, expected=wanted)


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solution of puzzle 5.
@cuda.jit(device=True)
def philox(c0, c1, c2, c3, k0, k1):
    for _ in range(10):
        p, q = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (q >> BITS) ^ c1 ^ k0, q & LOW, (p >> BITS) ^ c3 ^ k1, p & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


*_, drawn = judge(noise, 2, 4, 1, 2, 3, expected=wanted)


# %% [markdown]
# Now change the grid, and compare with a generator that keeps a state in each thread.


# %%
@cuda.jit
def stateful(out):
    state = U64(1000 + cuda.grid(1))  # each thread's own, updated at every draw
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        state = (state * U64(950706376)) % U64(2147483647)
        out[i // out.shape[1], i % out.shape[1]] = F(state) / F(2147483647) * F(4) - F(2)


# %%
fig, axes = plt.subplots(2, 2, figsize=(7.6, 3.4))
for row, (kernel, words, name) in enumerate(((stateful, (), "state in a thread"), (noise, (1, 2, 3), "Philox"))):
    fields = []
    for ax, threads in zip(axes[row], (4, 7), strict=True):
        field = np.empty((6, 24), F)
        kernel[1, threads](*words, field)
        fields.append(field)
        ax.imshow(field, cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
        ax.set(title=f"{name}: {threads} threads", xticks=[], yticks=[])
        ax.grid(visible=False)
    assert np.array_equal(*fields) == (kernel is noise)
axes[1, 0].set(xlabel="unit", ylabel="example")
fig.tight_layout()
plt.show()

# %%
for name in ("numpy", "numba", "cuda"):
    other = get_backend(name).noise(NoiseKey(3, 1, 2), 6, 24)
    print(f"backend {name!r}: largest difference from ours {np.abs(other - drawn.array).max():.0e}")
    assert np.allclose(other, drawn.array, atol=1e-5)

# %% [markdown]
# The two lower fields agree bit by bit, and with all three backends of the package up to rounding. So training can move from a laptop to a GPU and
# still be compared, step by step.
#
# ## Tiles
#
# Now the products. `naive` below has a thread for every output, which fetches all that it needs from global memory.
#
# **Predict.** `x` has 8 rows and 10 columns, `θ` 12 columns. How often is each number of `x` fetched? And if a block first copied what it needs into
# shared memory?
#
# **Puzzle 6, tiles.** A block of 4×4 threads owns 4×4 outputs and walks along `k` in strides of 4. At each it copies a 4×4 strip of `a` and of `b`
# into shared memory, one number of each per thread, and zeros beyond the edge; then every thread multiplies from there. Where do the two barriers go?
# (Make each shared array on a line of its own: the simulator tells them apart by their lines.)


# %%
@cuda.jit
def naive(a, b, out):
    n, m = cuda.grid(2)  # x is the fast direction of a block: neighbours take neighbouring columns
    if m < out.shape[0] and n < out.shape[1]:
        total = ZERO
        for k in range(a.shape[1]):
            total += a[m, k] * b[k, n]
        out[m, n] = total


# %%
@cuda.jit
def tiled(a, b, out):
    strip_a = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    for k0 in range(0, a.shape[1], TILE):
        strip_a[ty, tx] = a[m, k0 + tx] if m < a.shape[0] and k0 + tx < a.shape[1] else ZERO
        # your lines


# %%
TILE, GRID = 4, (3, 2)  # blocks of 4 x 4 threads, 3 across and 2 down
x, theta = rng.normal(size=(8, 10)).astype(F), rng.normal(size=(10, 12)).astype(F)
plain = judge(naive, GRID, (TILE, TILE), x, theta, expected=x @ theta)
_ = judge(tiled, GRID, (TILE, TILE), x, theta, expected=x @ theta)


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solution of puzzle 6. Barriers: before anyone reads a strip, and before anyone overwrites it.
@cuda.jit
def tiled(a, b, out):
    strip_a = cuda.shared.array((TILE, TILE), np.float32)
    strip_b = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    total = ZERO
    for k0 in range(0, a.shape[1], TILE):
        strip_a[ty, tx] = a[m, k0 + tx] if m < a.shape[0] and k0 + tx < a.shape[1] else ZERO
        strip_b[ty, tx] = b[k0 + ty, n] if k0 + ty < b.shape[0] and n < b.shape[1] else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            total += strip_a[ty, k] * strip_b[k, tx]
        cuda.syncthreads()
    if m < out.shape[0] and n < out.shape[1]:
        out[m, n] = total


tiles = judge(tiled, GRID, (TILE, TILE), x, theta, expected=x @ theta)

# %% tags=["cover"]
colours = ListedColormap([COLOURS["test"], COLOURS["accent"], COLOURS["train"], "#A9CCE5"])
kinds = ("fetched from global memory", "written there", "read in shared memory", "put there")
scores = [
    ("a thread per output: everybody fetches everything", plain),
    ("tiles: fetch a little, share the rest", tiles),
]
fig, axes = plt.subplots(2, 1, figsize=(8.4, 5.6), sharex=True)
for ax, (title, arrays) in zip(axes, scores, strict=True):
    ax.imshow(score(arrays), cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="none")
    ax.set(title=title, ylabel="thread", yticks=[0, 15], yticklabels=["1", "16"])
    ax.set_yticks(np.arange(-0.5, 16), minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", axis="y", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
axes[1].set(
    xlabel="time, if global memory takes ten times as long as shared memory", xlim=(-0.5, score(plain).shape[1])
)
marks = [Patch(color=colours(n), label=kind) for n, kind in enumerate(kinds)]
fig.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=9)
fig.tight_layout(rect=(0, 0.05, 1, 1))
plt.show()

# %% [markdown]
# This is the picture from the top of the page, and now you can read it. Without tiles each thread fetches all of its 20 numbers itself. With tiles it fetches four to six and takes
# the rest from what its neighbours have put into shared memory; in the white gaps all wait for each other. Over all blocks, a number of `x` is fetched 12 times without tiles, once for each column,
# and 3 times with them, once for each of the three blocks side by side. With tiles of $T\times T$, traffic falls by $T$.
#
# ## The whole layer in one kernel
#
# **Puzzle 7, the fused layer.** $y = x\theta + b + \sqrt{x^2\sigma^2}\,\varepsilon$. Extend your tiles: one strip of `x` serves **both** sums and is
# squared where it is used; $\sigma^2 = e^{\log\sigma^2}$ is made on the way into shared memory; each thread draws the noise of its own output at the end. The strips are set up.


# %%
@cuda.jit
def fused(x, theta, log_sigma2, bias, layer, step, seed, out):
    """out = x @ theta + bias + sqrt(x**2 @ exp(log_sigma2)) * noise"""
    strip_x = cuda.shared.array((TILE, TILE), np.float32)
    strip_theta = cuda.shared.array((TILE, TILE), np.float32)
    strip_sigma2 = cuda.shared.array((TILE, TILE), np.float32)
    (n, m), mean, var = cuda.grid(2), ZERO, ZERO
    # for each k0 three strips, as in tiled; a barrier; both sums; a barrier
    # and the output, with normal(m, n, layer, step, seed)


# %%
log_sigma2, bias = rng.normal(-2, 1, (10, 12)).astype(F), rng.normal(size=12).astype(F)
layer = (x, theta, log_sigma2, bias, 1, 2, 3)
draws_wanted = get_backend("numpy").noise(NoiseKey(3, 1, 2), 8, 12)
answer = x @ theta + bias + np.sqrt(x**2 @ np.exp(log_sigma2)) * draws_wanted
_ = judge(fused, GRID, (TILE, TILE), *layer, expected=answer)


# %% jupyter={"source_hidden": true} tags=["solution", "needed"]
# Solution of puzzle 7.
@cuda.jit
def fused(x, theta, log_sigma2, bias, layer, step, seed, out):
    strip_x = cuda.shared.array((TILE, TILE), np.float32)
    strip_theta = cuda.shared.array((TILE, TILE), np.float32)
    strip_sigma2 = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    mean, var = ZERO, ZERO
    for k0 in range(0, x.shape[1], TILE):
        strip_x[ty, tx] = x[m, k0 + tx] if m < x.shape[0] and k0 + tx < x.shape[1] else ZERO
        inside = k0 + ty < x.shape[1] and n < out.shape[1]
        strip_theta[ty, tx] = theta[k0 + ty, n] if inside else ZERO
        strip_sigma2[ty, tx] = F(math.exp(log_sigma2[k0 + ty, n])) if inside else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            a = strip_x[ty, k]
            mean += a * strip_theta[k, tx]
            var += a * a * strip_sigma2[k, tx]
        cuda.syncthreads()
    if m < out.shape[0] and n < out.shape[1]:
        out[m, n] = mean + bias[n] + F(math.sqrt(var)) * normal(m, n, layer, step, seed)


one_launch = judge(fused, GRID, (TILE, TILE), *layer, expected=answer)

# %% [markdown]
# What did that save? Without fusion there are six launches: squares, $\sigma^2$, two products, noise, and a sum at the end. Each leaves
# its result in global memory, where the next one fetches it.


# %%
@cuda.jit
def exponential(x, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = F(math.exp(x[i]))


@cuda.jit
def sample(mean, var, noise, bias, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        at = i // out.shape[1], i % out.shape[1]
        out[at] = mean[at] + bias[at[1]] + F(math.sqrt(var[at])) * noise[at]


# %%
def six_launches(product):
    """The layer in six launches; returns every array that lies in global memory."""
    squares, sigma2 = x**2, np.exp(log_sigma2)
    with redirect_stdout(None):  # the verdicts are known
        found = judge(square_any, 1, 4, x.ravel(), expected=squares.ravel())
        found += judge(exponential, 1, 4, log_sigma2.ravel(), expected=sigma2.ravel())
        found += (mean := judge(product, GRID, (TILE, TILE), x, theta, expected=x @ theta)[:3])
        found += (var := judge(product, GRID, (TILE, TILE), squares, sigma2, expected=squares @ sigma2)[:3])
        found += (draws := judge(noise, 1, 4, *layer[4:], expected=draws_wanted)[3:])
        return found + judge(sample, 1, 4, mean[2].array, var[2].array, draws[0].array, bias, expected=answer)


# %%
def touches(arrays):
    return sum(len(array.touches) for array in arrays if isinstance(array, Traced))


counted = {"naive, six launches": touches(six_launches(naive)), "tiles, six launches": touches(six_launches(tiled))}
counted["tiles, fused"] = touches(one_launch[:8])

# %% [markdown]
# The same numbers by hand, for $M\times K$ inputs, $N$ units and tiles of any shape. Where formula and recording agree, the formula may be trusted at
# sizes no simulator can run.


# %%
def traffic(m, n, k, down, across, fuse):
    """Reads and writes of global memory; a tile is down x across outputs, and 1 x 1 is the naive kernel."""
    strips = m * k * math.ceil(n / across), k * n * math.ceil(m / down)  # of x or its square; of theta or sigma^2
    if fuse:
        return strips[0] + 2 * strips[1] + 2 * m * n  # and bias in, y out
    return 2 * m * k + 2 * k * n + 2 * sum(strips) + 2 * m * n + m * n + 5 * m * n


# %%
def intensity(shape):
    """Of LeNet-300-100's first layer, in operations per byte: 4 operations for each m, n, k; 4 bytes for each touch."""
    return 4 * M * N * K / (4 * traffic(M, N, K, *shape))


# %%
M, N, K = 100, 300, 784
shapes = {"naive, six launches": (1, 1, False), "tiles, six launches": (4, 4, False), "tiles, fused": (4, 4, True)}
fig, ax = plt.subplots(figsize=(7.4, 2.4))
for name, shape in shapes.items():
    assert counted[name] == traffic(8, 12, 10, *shape), name
    bar = ax.barh(name, counted[name] / 96, color=COLOURS["test" if shape[2] else "pruned"])
    ax.bar_label(bar, fmt="%.1f", padding=4)
ax.invert_yaxis()
ax.set(xlabel="reads and writes of global memory per output", title="Recorded: 8 × 10 inputs, 12 units, tiles of 4 × 4")
plt.show()

# %% [markdown]
# ## What would a real device make of it?
#
# Arithmetic is cheap, memory is not. Divide what a kernel computes by what it moves, in operations per byte: its **arithmetic intensity**. A device
# delivers at most its memory speed times that, and never more than its peak. The picture of both limits is the **roofline**. NVIDIA's data sheet of
# the H200 (SXM) says 67 TFLOP/s in float32, without tensor cores, and 4.8 TB/s.
#
# **Predict.** LeNet-300-100's first layer, 100 examples: on which side of the corner is each of our kernels?

# %%
PEAK, SPEED = 67e12, 4.8e12  # FLOP/s and bytes/s, from the data sheet
kernels = {"naive": (1, 1, False), "tiles 16 × 16": (16, 16, False), "fused 16 × 16": (16, 16, True)}
kernels |= {"fused 32 × 64": (32, 64, True), "fused 128 × 64": (128, 64, True)}
ideal = 4 * M * N * K / (4 * (M * K + 2 * K * N + 2 * M * N))  # every number once: what no kernel can beat


# %%
def roofline(points):
    fig, ax = plt.subplots(figsize=(7.4, 3.6))
    reach, label = (
        np.logspace(-1, 2.3, 200),
        {"fontsize": 8.5, "bbox": {"facecolor": "white", "linewidth": 0, "pad": 1}},
    )
    ax.loglog(reach, np.minimum(PEAK, reach * SPEED) / 1e12, color=COLOURS["ink"], linewidth=1.5)
    ax.axvline(ideal, color=COLOURS["sparsity"], linestyle=":", label="every number moved once")
    for name, at in points.items():
        ceiling = min(PEAK, at * SPEED) / 1e12
        ax.plot(at, ceiling, "o", color=COLOURS["test" if "fused" in name else "train"])
        ax.annotate(f"{name}: {ceiling:.1f}", (at, ceiling), (9, -13), textcoords="offset points", **label)
    ax.set(
        xlabel="operations per byte",
        ylabel="TFLOP/s, at most",
        title="Ceilings by the data sheet, no measurement. Orange: fused",
    )
    ax.legend(loc="upper left")
    plt.show()


roofline({name: intensity(shape) for name, shape in kernels.items()})
assert intensity(kernels["tiles 16 × 16"]) < intensity(kernels["fused 16 × 16"]) < PEAK / SPEED
assert intensity(kernels["fused 128 × 64"]) > PEAK / SPEED and math.ceil(M / 128) * math.ceil(N / 64) == 5

# %% [markdown]
# The corner is where the device can compute as fast as it can fetch. Tiles move a kernel to the right; fusing moves it further, at no cost in
# arithmetic. Large tiles reach the flat part, and then other things count. Tiles of 128×64 cut this layer into 5 blocks, and the H200 has 132
# multiprocessors, which run one or more blocks each, to feed. So the package takes smaller tiles here and cuts the sum over `k` into slices, whose parts are added in a fixed order, as
# in puzzle 4. And the model is strict: it lets every read go to global memory, while real devices have caches, which help the naive kernel most. Try
# tiles of your own. (Without a running kernel you see one position of the sliders.)

# %%
from ipywidgets import SelectionSlider

sizes = [1, 2, 4, 8, 16, 32, 64, 128]
down_slider = SelectionSlider(options=sizes, value=32, description="rows")
across_slider = SelectionSlider(options=sizes, value=64, description="columns")


@slide(down=down_slider, across=across_slider, fuse=True)
def show_tile(down, across, fuse):
    """One tile on the roofline."""
    blocks = math.ceil(M / down) * math.ceil(N / across)
    roofline({f"{'fused ' * fuse}{down} × {across}, {blocks} blocks": intensity((down, across, fuse))})


# %% [markdown]
# ## The same with the package
#
# `backend="cuda"` is this layer, grown up: tiles of 32×64 or 128×64, a patch of 4×4 or 8×4 outputs in the *registers* of each thread, its own and fastest memory, the next strip on
# its way while one is multiplied; and all three passes, forward, input gradients and weight gradients, from one source. Here it runs in the
# simulator, against NumPy.

# %%
results = {}
for name in ("numpy", "cuda"):
    model = svd.Sequential(svd.VariationalDense(10, 12), svd.ReLU(), svd.VariationalDense(12, 3), backend=name)
    for key, array in model.parameters.items():
        array[...] = np.random.default_rng(len(key)).normal(-1, 0.5, array.shape)
    results[name] = model.loss_and_grads(x, np.arange(8) % 3, n_train=8, kl_weight=1.0)

# %%
print(f"loss: numpy {results['numpy'][0]:.6f}, cuda {results['cuda'][0]:.6f}")
for key, gradient in results["numpy"][1].items():
    assert np.allclose(results["cuda"][1][key], gradient, rtol=1e-3, atol=1e-4), key
print("gradients of all", len(results["numpy"][1]), "parameters agree")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Leave out the second barrier of `tiled` and let `judge` look at it. For which numbers of inputs is the result right all the same?
#
# **Exercise 2.** Shared memory has 32 *banks*; number $i$ of an array lies in bank $i \bmod 32$, and a bank serves one number at a time. In a strip
# of 32×32, how many of a warp's 32 reads fall into one bank if the warp reads a row? A column? What if rows are 33 long?
#
# **Exercise 3.** Let each thread of `fused` own a patch of $a\times b$ outputs. Per step of `k` it reads $a + 2b$ numbers from shared memory: $a$ of `x`, $b$ of $\theta$, $b$ of
# $\sigma^2$. How many reads is that for one multiply-add, for 1×1, 4×4 and 8×4? (Mean and variance both take one.)


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. A fast thread overwrites a strip that a slow one still reads. With a single strip (K <= 4) there is nothing to overwrite.
@cuda.jit
def hasty(a, b, out):
    strip_a = cuda.shared.array((TILE, TILE), np.float32)
    strip_b = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    total = ZERO
    for k0 in range(0, a.shape[1], TILE):
        strip_a[ty, tx] = a[m, k0 + tx] if k0 + tx < a.shape[1] else ZERO
        strip_b[ty, tx] = b[k0 + ty, n] if k0 + ty < b.shape[0] else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            total += strip_a[ty, k] * strip_b[k, tx]
    out[m, n] = total


for inputs in (10, 4):
    found = judge(hasty, GRID, (TILE, TILE), x[:, :inputs], theta[:inputs], expected=x[:, :inputs] @ theta[:inputs])
    assert any(races(array, shared=True) for array in found[3:]) == (inputs == 10)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. A row: one in each bank. A column: all 32 in one, one after the other. Rows of 33 shift each row by a bank, and both are fast.
for width in (32, 33):
    for what, places in (("row", np.arange(32)), ("column", np.arange(32) * width)):
        print(f"rows of {width}, reading a {what}: {np.bincount(places % 32).max()} in the busiest bank")
assert np.bincount(np.arange(32) * 32 % 32).max() == 32 and np.bincount(np.arange(32) * 33 % 32).max() == 1

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. A patch multiplies and adds 2ab times (mean and variance): (a + 2b) / (2ab) reads for one. Registers are the last tile.
for a, b in ((1, 1), (4, 4), (8, 4)):
    print(f"{a} x {b}: {(a + 2 * b) / (2 * a * b):.3f} reads of shared memory per multiply-add")
assert (1 + 2) / 2 == 1.5 and (8 + 8) / 64 == 0.25

# %% [markdown]
# ## In practice
#
# The simulator checks *what* a kernel computes. It knows nothing of speed, and not everything of correctness: it has no types. A bare `0.5` is
# harmless here; compiled, it turns float32 arithmetic into float64, which many devices do far more slowly. A signed index may be negative, so the
# compiler adds code that counts from the end, and loads stay narrow. Hence the casts `F(...)` and `U(...)` all over the package's kernels.
#
# An honest word: the package's CUDA backend passes its tests in this simulator, and all its kernels compile to PTX, the assembly language of NVIDIA's
# devices. It has run on one, an H200: every operation was right, and the products reached 35 % of the device's peak, so they have been rewritten
# since. `benchmarks/results/gpu.md` has what was measured, and `benchmarks/gpu_check.py` measures it on yours.
#
# The kernels above are real CUDA, too: without the simulator they compile as they stand (tried with numba-cuda 0.30).
#
# For large plain products use the vendor's libraries; write kernels where fusing saves traffic, as here. And without a GPU, the same
# thoughts pay on a CPU, whose caches are its shared memory.
#
# ## Further reading
#
# - `svd_numpy/kernels/cuda/product.py`: [the tile that multiplies for mean and variance at once](../svd_numpy/kernels/cuda/product.py); and
#   [five rungs from naive to fused](../benchmarks/cuda_ladder.py), ready to be timed.
# - Sasha Rush: [GPU Puzzles](https://github.com/srush/GPU-Puzzles), which this notebook owes its form to.
# - Salmon, Moraes, Dror, Shaw: [Parallel Random Numbers: As Easy as 1, 2, 3](https://doi.org/10.1145/2063384.2063405), 2011: Philox.
# - Williams, Waterman, Patterson: [Roofline](https://doi.org/10.1145/1498765.1498785), 2009. NVIDIA: [H200 data sheet](https://www.nvidia.com/en-us/data-center/h200/).
