# %% [markdown]
# # Where does the time go?
#
# **What you'll do.** Take one training step of a Sparse VD layer from plain NumPy to *fused kernels*, compiled loops that do several operations in one pass, a stage at a time. Each stage is tested against
# the first before it is timed, and each is explained by two numbers of your machine.
#
# **What you'll learn.** To count bytes and operations, to read a roofline, what a temporary array costs, what Numba needs before it writes vector
# code, and why the *update* of the weights deserves as much care as the matrix products.
#
# **What you'll need.** NumPy and the gradients of the layer ([notebook 4](04_derive_every_gradient.ipynb)). About 40 minutes. All times in the
# outputs are those of the machine that ran this page last; yours will differ.

# %% tags=["setup"]
# From cells.py.

# %%
import math
import os
import platform
import statistics
import time
from collections import defaultdict
from types import SimpleNamespace

for pool in ("OPENBLAS", "MKL", "BLIS"):
    os.environ[f"{pool}_NUM_THREADS"] = "1"  # NumPy's products on one thread; read when NumPy is imported

import matplotlib.pyplot as plt
import numba
import numpy as np
from numba import njit, prange

from svd_numpy.kernels import get_backend
from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey, StepSettings
from svd_numpy.network.params import Arena, ParamSpec
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests measure less often
F = np.float32
CORES = numba.get_num_threads()
numba.set_num_threads(1)  # one core, until the very end


# %% tags=["helpers"]
def best_seconds(work, least=0.002, blocks=5):
    """Seconds per call, in the best of some blocks: what the machine can do when nobody disturbs it."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, math.ceil(least / max(time.perf_counter() - start, 1e-7)))
    seconds = []
    for _ in range(blocks):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        seconds.append((time.perf_counter() - start) / calls)
    return min(seconds)


def bandwidth(size):
    """Bytes per second of a triad over three arrays of `size` bytes together."""
    a, b, c = np.ones((3, int(size) // 12), F)
    return 12 * a.size / best_seconds(lambda: triad(a, b, c, F(0.5)))


def fresh(dtype=F):
    """Everything that a step needs, the same at every call."""
    rng = np.random.default_rng(0)
    s = SimpleNamespace(step=0, testing=False, rng=np.random.default_rng(1))
    s.x, s.target = rng.random((B, INPUTS)).astype(dtype), rng.normal(size=(B, UNITS)).astype(dtype)
    s.p = {
        "theta": rng.normal(0, 0.05, (INPUTS, UNITS)),
        "log_sigma2": rng.uniform(-8, -4, (INPUTS, UNITS)),
        "bias": np.zeros(UNITS),
    }
    s.p = {name: array.astype(dtype) for name, array in s.p.items()}
    s.m = {name: np.zeros_like(array) for name, array in s.p.items()}
    s.v = {name: np.zeros_like(array) for name, array in s.p.items()}
    return s


def slope_of_loss(h=1e-6):
    """Derivative of the loss for the variance of one output, by a difference; and the one of `sample`."""
    s = fresh(np.float64)
    forward(s)
    sample(s)
    loss = [0.5 * (s.mean[0, 0] + np.sqrt(s.var[0, 0] + e) * s.noise[0, 0] - s.target[0, 0]) ** 2 / B for e in (h, -h)]
    return (loss[0] - loss[1]) / 2 / h, s.d_var[0, 0]


class Counted(np.ndarray):
    """An array whose operations add up the bytes of their operands and results."""

    moved = 0

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        bare = [array.view(np.ndarray) if isinstance(array, Counted) else array for array in inputs]
        if out is not None:
            options["out"] = tuple(array.view(np.ndarray) for array in out)
        result = getattr(ufunc, method)(*bare, **options)
        Counted.moved += sum(array.nbytes for array in (*bare, result) if isinstance(array, np.ndarray))
        return out[0] if out is not None else result.view(Counted)


def count(s, parts):
    """Bytes that each part of a NumPy step moves."""
    for name, value in vars(s).items():
        if isinstance(value, dict):
            setattr(s, name, {key: array.view(Counted) for key, array in value.items()})
        elif isinstance(value, np.ndarray):
            setattr(s, name, value.view(Counted))
    result = {}
    for part, work in parts.items():
        before = Counted.moved
        work(s)
        result[part] = Counted.moved - before
    result["sampling"] += s.target.nbytes  # what the generator writes
    return result


def race(stages, rounds):
    """Median milliseconds of every part of every stage."""
    times = defaultdict(lambda: defaultdict(list))
    for turn in range(rounds + 1):
        for name, (s, parts) in stages.items():
            for _ in range(2):
                for part, work in parts.items():
                    start = time.perf_counter()
                    work(s)
                    if turn:  # the first turn warms up
                        times[name][part].append(1e3 * (time.perf_counter() - start))
    return {name: {part: statistics.median(t) for part, t in parts.items()} for name, parts in times.items()}


def kl_out(s):
    """Chain rule and KL gradient, into s.d."""
    theta, d, ratio, slope, work = s.p["theta"], s.d, s.a, s.b, s.c
    np.multiply(theta, theta, out=ratio)
    ratio /= s.sigma2
    np.power(ratio, K3 - 1, out=slope)
    slope *= E_K2
    np.multiply(ratio, slope, out=work)
    work += 1
    work *= work
    slope /= work
    slope *= 2 * K1 * K3
    np.add(ratio, 1, out=work)
    np.reciprocal(work, out=work)
    slope += work
    np.divide(theta, s.sigma2, out=work)
    for factor in (slope, 1 / N):
        work *= factor
    d["theta"] += work
    d["log_sigma2"] *= s.sigma2
    for factor in (slope, 0.5 / N):
        ratio *= factor
    d["log_sigma2"] -= ratio


def update_out(s):
    if s.step == 0:
        s.a, s.b, s.c = (np.empty_like(s.p["theta"]) for _ in range(3))
    s.step += 1
    kl_out(s)
    for name, d in s.d.items():
        m, v, work = s.m[name], s.v[name], s.a if d.ndim == 2 else np.empty_like(d)
        m *= BETA1
        np.multiply(d, 1 - BETA1, out=work)
        m += work
        d *= d
        d *= 1 - BETA2
        v *= BETA2
        v += d
        np.multiply(v, 1 / (1 - BETA2**s.step), out=work)
        np.sqrt(work, out=work)
        work += EPSILON
        np.divide(m, work, out=work)
        work *= LR / (1 - BETA1**s.step)
        s.p[name] -= work
    np.clip(s.p["log_sigma2"], -20, 10, out=s.p["log_sigma2"])


def state_after(s, parts, steps=2):
    """Parameters and Adam's moments after some steps, by name."""
    s.testing = True
    for _ in range(steps):
        for work in parts.values():
            work(s)
    return {(kind, name): array for kind in "pmv" for name, array in getattr(s, kind).items()}


def same(s, parts, name):
    """Check a stage against the first one, to float32's accuracy."""
    worst = 0.0
    for key, array in state_after(s, parts).items():
        scale = np.abs(reference[key]).mean()
        worst = max(worst, float(np.abs(array - reference[key]).mean() / scale))
    print(f"{name}: mean difference from the first stage at most {worst:.0e} of the mean size")
    assert worst < 1e-4, name


def with_sweep(loop):
    """An update that does all weights by a loop, and the bias in NumPy."""

    def work(s):
        s.step += 1
        rate, correction = F(LR / (1 - BETA1**s.step)), F(1 / (1 - BETA2**s.step))
        flat = [table[name].ravel() for table in (s.p, s.d) for name in ("theta", "log_sigma2")]
        flat += [table[name].ravel() for name in ("theta", "log_sigma2") for table in (s.m, s.v)]
        loop(*flat, rate, correction)
        m, v, d = s.m["bias"], s.v["bias"], s.d["bias"]
        m[:], v[:] = BETA1 * m + (1 - BETA1) * d, BETA2 * v + (1 - BETA2) * d * d
        s.p["bias"] -= rate * m / (np.sqrt(v * correction) + EPSILON)

    return work


def packaged(name):
    """The layer on a backend of the package, as a state and its parts."""
    s, engine, memory = fresh(), get_backend(name), Buffers()
    weights = ParamSpec("theta", s.p["theta"].shape, s.p["theta"], s.p["log_sigma2"])
    arena = Arena([weights, ParamSpec("bias", (UNITS,), s.p["bias"])], F, "log_uniform")
    s.p = arena.views
    s.m, s.v = ({key: arena.views_of(key)[i] for key in s.p} for i in (1, 2))
    y, dy, d = np.empty((B, UNITS), F), np.empty((B, UNITS), F), arena.grad_views

    def ahead(s):
        engine.lrt_forward(s.x, *s.p.values(), 0.0, NoiseKey(SEED, 0, s.step), False, y, memory)

    def loss(s):
        np.subtract(y, s.target, out=dy)
        np.divide(dy, B, out=dy)

    def back(s):
        weights = s.p["theta"], s.p["log_sigma2"]
        engine.lrt_backward(s.x, *weights, 0.0, dy, None, *d.values(), None, memory)

    def step(s):
        s.step += 1
        adam = AdamSettings(LR, BETA1, BETA2, EPSILON, s.step)
        engine.adam_step(arena, StepSettings(1 / N, 0.0, adam), held=False)

    return s, dict(zip(NAIVE, (ahead, loss, back, step), strict=True))


# %% [markdown]
# ## Two numbers of your machine
#
# A core can compute, and it can move numbers. How fast? For the first, multiply two large matrices. For the second, run the *triad* $a = b + s\,c$,
# which does next to nothing but moving: 12 bytes for each element in float32. It matters how large the arrays are together, since small ones stay in
# a cache near the core. (Very small ones look slower than they are: there the call itself takes time.) The folded cell above times, counts and compares.


# %%
@njit(fastmath={"contract"})
def triad(a, b, c, scale):
    for i in range(a.size):
        a[i] = b[i] + scale * c[i]


# %%
WEIGHTS = 784 * 300  # of the layer below
sizes = np.logspace(5, 8.3 if FULL else 7.2, 14 if FULL else 6)
speeds = np.array([bandwidth(size) for size in sizes])
square, result = np.ones((1024, 1024), F), np.empty((1024, 1024), F)
PEAK = 2 * 1024**3 / best_seconds(lambda: np.dot(square, square, out=result))

# %%
fig, ax = plt.subplots(figsize=(7.4, 3))
ax.semilogx(sizes, speeds / 1e9, "o-", color=COLOURS["train"])
for name, arrays in (("θ", 1), ("all that Adam\nneeds", 8)):
    ax.axvline(4 * WEIGHTS * arrays, color=COLOURS["test"], linestyle=":")
    ax.text(4 * WEIGHTS * arrays * 1.06, 0.03 * speeds.max() / 1e9, name, color=COLOURS["test"], fontsize=9)
ax.set(xlabel="bytes touched", ylabel="GB/s", title="Speed of moving, one core", ylim=(0, None))
plt.show()
print(
    f"arithmetic: {PEAK / 1e9:.0f} GFLOP/s; moving: {speeds.max() / 1e9:.0f} GB/s at best, {speeds[-1] / 1e9:.0f} far from the core"
)
print(f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {numba.__version__}, {platform.machine()}")
print(f"while one number comes from far away, this core could do about {4 * PEAK / speeds[-1]:.0f} operations")

# %% [markdown]
# ## A step in plain NumPy
#
# The layer is the first of LeNet-300-100: 100 examples, 784 inputs, 300 units. Its loss here is a squared distance to some target, so that the rest
# of a network does not get in our way. The parts: two products forward; sampling; two products backward; and the update: chain rule, KL gradient,
# Adam.
#
# **Predict.** Rank the four parts by time. The products need 188 million operations.

# %%
B, INPUTS, UNITS, N = 100, 784, 300, 60_000  # examples; training examples
K1, K3, E_K2 = 0.63576, 1.48695, math.exp(-1.87320)  # the KL's fit (Molchanov et al. 2017, eq. 14)
LR, BETA1, BETA2, EPSILON, SEED = 1e-3, 0.9, 0.999, 1e-8, 5
assert round(8 * B * WEIGHTS / 1e6) == 188  # two products forward, two backward, 2 operations per pair
plain = get_backend("numpy")


# %%
def draw(s):
    """Noise: a generator's, or, to compare stages, the package's field of noise."""
    if s.testing:
        return plain.noise(NoiseKey(SEED, 0, s.step), B, UNITS).astype(s.x.dtype)
    return s.rng.standard_normal((B, UNITS), dtype=s.x.dtype)


# %% sample tags=["blank"]
def forward(s):
    s.x2, s.sigma2 = s.x**2, np.exp(s.p["log_sigma2"])
    s.mean, s.var = s.x @ s.p["theta"] + s.p["bias"], s.x2 @ s.sigma2


def sample(s):
    s.noise = draw(s)
    s.std = np.sqrt(s.var)
    s.dy = (s.mean + s.std * s.noise - s.target) / B
    s.d_var = s.dy * s.noise / (2 * s.std)  # blank


# %% tags=["check"]
check(
    "sample",
    lambda: np.isclose(*slope_of_loss(), rtol=1e-4),
    "The derivative for the standard deviation is dy times the noise.",
    "The standard deviation is the root of the variance: divide by 2 std.",
)


# %%
def backward(s):
    s.d = {"theta": s.x.T @ s.dy, "log_sigma2": s.x2.T @ s.d_var, "bias": s.dy.sum(axis=0)}  # second: for sigma^2


# %%
def add_kl(s):
    """Chain rule, and the gradients of KL / N."""
    ratio = s.p["theta"] ** 2 / s.sigma2
    power = E_K2 * ratio ** (K3 - 1)
    slope = 1 / (1 + ratio) + 2 * K1 * K3 * power / (1 + ratio * power) ** 2
    s.d["theta"] = s.d["theta"] + slope * s.p["theta"] / s.sigma2 / N
    s.d["log_sigma2"] = s.d["log_sigma2"] * s.sigma2 - ratio * slope / 2 / N


# %%
def update(s):
    s.step += 1
    add_kl(s)
    for name, d in s.d.items():
        s.m[name] = BETA1 * s.m[name] + (1 - BETA1) * d
        s.v[name] = BETA2 * s.v[name] + (1 - BETA2) * d**2
        move = s.m[name] / (np.sqrt(s.v[name] / (1 - BETA2**s.step)) + EPSILON)
        s.p[name] = s.p[name] - LR / (1 - BETA1**s.step) * move
    s.p["log_sigma2"] = np.clip(s.p["log_sigma2"], -20, 10)


# %%
NAIVE = {"products forward": forward, "sampling": sample, "products backward": backward, "update": update}

# %% [markdown]
# The update is a few lines, so it looks cheap. Count instead: every operation on arrays reads its operands from memory and writes its result there.
# `Counted`, in the folded cell at the top, is an array that adds up these bytes. Times are medians, and the candidates take turns, so that a busy moment of the
# machine hits all of them.


# %%
ROUNDS = 15 if FULL else 2
stages = {"NumPy, float64": (fresh(np.float64), NAIVE), "NumPy, float32": (fresh(), NAIVE)}
moved = {name: count(fresh(s.x.dtype), NAIVE) for name, (s, _) in stages.items()}
took = race(stages, ROUNDS)

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.6, 2.6), sharey=True)
for ax, unit, table in zip(axes, ("ms", "MB moved"), (took, moved), strict=True):
    values = [value / (1 if unit == "ms" else 1e6) for value in table["NumPy, float32"].values()]
    ax.bar_label(
        ax.barh(list(NAIVE), values, color=COLOURS["train" if unit == "ms" else "test"]), fmt="%.1f", padding=3
    )
    ax.set(xlabel=unit, xlim=(0, 1.15 * max(values)), title={"ms": "time, float32"}.get(unit, "traffic, float32"))
axes[0].invert_yaxis()
fig.tight_layout()
plt.show()
assert max(moved["NumPy, float32"], key=moved["NumPy, float32"].get) == "update"
print(f"the update goes {moved['NumPy, float32']['update'] / (4 * WEIGHTS):.0f} times over an array as large as θ")

# %% [markdown]
# Nothing moves as much as the update, and it computes nearly nothing: a few operations for each number that comes by. A **roofline** says what that
# means: with $o$ operations for every byte, a core delivers at most $\min(\text{peak},\ o\cdot\text{bandwidth})$. Left of the corner it waits for
# memory, and faster arithmetic is of no use there.
#
# ## Stage by stage
#
# **float32.** Half the bytes, for nothing. NumPy computes in float64 unless told otherwise, so give the dtype wherever you make an array.
#
# **out=.** Every `a * b` makes a new array. With `out=` and `*=` the results go to the same few buffers again and again, which stay in a cache, and
# hardly anything is allocated. It is the same arithmetic, and much less pretty. (Two parts are enough to see it; `update_out` is in the folded cell.)


# %%
def forward_out(s):
    if s.step == 0:
        s.x2, s.sigma2, s.mean, s.var = (np.empty_like(a) for a in (s.x, s.p["theta"], s.target, s.target))
    np.multiply(s.x, s.x, out=s.x2)
    np.exp(s.p["log_sigma2"], out=s.sigma2)
    np.matmul(s.x, s.p["theta"], out=s.mean)
    np.matmul(s.x2, s.sigma2, out=s.var)
    s.mean += s.p["bias"]


# %%
def sample_out(s):
    if s.step == 0:
        s.dy, s.d_var = np.empty_like(s.mean), np.empty_like(s.mean)
    noise = draw(s)
    np.sqrt(s.var, out=s.var)  # the standard deviation
    np.multiply(s.var, noise, out=s.dy)
    s.dy += s.mean
    s.dy -= s.target
    s.dy /= B
    np.multiply(s.dy, noise, out=s.d_var)
    s.var *= 2
    s.d_var /= s.var


# %%
def backward_out(s):
    if s.step == 0:
        s.d = {name: np.empty_like(array) for name, array in s.p.items()}
    np.matmul(s.x.T, s.dy, out=s.d["theta"])
    np.matmul(s.x2.T, s.d_var, out=s.d["log_sigma2"])
    np.sum(s.dy, axis=0, out=s.d["bias"])


# %%
WITH_OUT = dict(zip(NAIVE, (forward_out, sample_out, backward_out, update_out), strict=True))

# %% [markdown]
# A faster step is worth nothing if it is another step. So every stage makes two steps from the same start, with the same noise, and must reach the
# same moments and parameters as the first.

# %%
reference = state_after(fresh(np.float64), NAIVE)


# %%
for name, parts in (("NumPy, float32", NAIVE), ("out=", WITH_OUT)):
    same(fresh(), parts, name)
stages["out="], moved["out="] = (fresh(), WITH_OUT), count(fresh(), WITH_OUT)

# %% [markdown]
# **One loop for the sampling.** Numba compiles a Python loop to machine code: every number is read once, everything happens to it in registers,
# results are written once. `prange` may share the rows out to threads; each writes its own outputs, so the bits do not depend on their number. The
# generator of the noise stays outside for now: where it takes most of the sampling's time, this stage cannot gain much.
#
# `fastmath` lets the compiler use laws that floats do not obey.
#
# **Predict.** What does a check for NaN find in an array that has one, with
# `fastmath=True`?


# %%
def count_nan(x):
    found = 0
    for i in range(x.size):
        found += 1 if x[i] != x[i] else 0
    return found


# %%
SAFE = {"contract", "arcp", "nsz"}  # fused multiply-add, reciprocals, no care for -0: NaN stays NaN
for flags in (False, SAFE, True):
    found = njit(count_nan, fastmath=flags)(np.array([1, np.nan, 2], F))
    print(f"fastmath={sorted(flags) if flags is SAFE else flags}: {found} NaN found")
    assert flags is True or found == 1

# %% [markdown]
# `True` includes the promise that there is no NaN, and the compiler may delete whatever looks for one. So name the flags that you mean.


# %%
@njit(parallel=True, fastmath=SAFE, error_model="numpy")
def sample_loop(mean, var, noise, target, dy, d_var):
    for b in prange(dy.shape[0]):
        for o in range(dy.shape[1]):
            std, e = math.sqrt(var[b, o]), noise[b, o]
            d = (mean[b, o] + std * e - target[b, o]) / F(dy.shape[0])
            dy[b, o] = d
            d_var[b, o] = F(0.5) * d * e / std


# %%
def sample_fused(s):
    if s.step == 0:
        s.dy, s.d_var = np.empty_like(s.mean), np.empty_like(s.mean)
    sample_loop(s.mean, s.var, draw(s), s.target, s.dy, s.d_var)


# %%
FUSED = WITH_OUT | {"sampling": sample_fused}
same(fresh(), FUSED, "one loop for the sampling")
Y, X, W = 4 * B * UNITS, 4 * B * INPUTS, 4 * WEIGHTS  # bytes of an array of outputs, inputs, weights
stages["fused sampling"] = fresh(), FUSED
moved["fused sampling"] = moved["out="] | {"sampling": Y + 4 * Y + 2 * Y}  # draw; read four arrays; write two

# %% [markdown]
# **Noise where it is needed.** The array of noise is written, then read, then forgotten. Philox makes its numbers from their indices
# ([notebook 7](07_think_like_a_gpu.ipynb)), so a thread can draw a row into a small buffer just before it uses it, as vector code.

# %%
from svd_numpy.kernels.cpu.simd import noise_row


# %%
@njit(parallel=True, fastmath=SAFE, error_model="numpy")
def sample_row(step, mean, var, target, dy, d_var, rows):
    for b in prange(dy.shape[0]):
        row = rows[numba.get_thread_id()]
        noise_row(row, np.uint32(b), np.uint32(step), np.uint32(0), np.uint32(SEED), np.uint32(0))
        for o in range(dy.shape[1]):
            std = math.sqrt(var[b, o])
            d = (mean[b, o] + std * row[o] - target[b, o]) / F(dy.shape[0])
            dy[b, o] = d
            d_var[b, o] = F(0.5) * d * row[o] / std


# %%
def sample_philox(s):
    if s.step == 0:
        s.dy, s.d_var = np.empty_like(s.mean), np.empty_like(s.mean)
        s.rows = np.empty((CORES, 320), F)  # a multiple of 64 for each thread
    sample_row(s.step, s.mean, s.var, s.target, s.dy, s.d_var, s.rows)


# %%
PHILOX = WITH_OUT | {"sampling": sample_philox}
same(fresh(), PHILOX, "noise in the loop")
stages["Philox inside"] = fresh(), PHILOX
moved["Philox inside"] = moved["out="] | {"sampling": 3 * Y + 2 * Y}

# %% [markdown]
# **One pass for the update.** Chain rule, KL, Adam: every number is read once and written once, and then it is not touched again.
#
# **Predict.** It moves a small part of the bytes. Is it faster than NumPy by as much?


# %%
def make_gradient(exp, log):
    @njit(fastmath=SAFE, error_model="numpy")
    def gradient(theta, log_sigma2, d_theta, d_sigma2):
        sigma2 = exp(log_sigma2)
        ratio = theta * theta / sigma2
        power = F(E_K2) * exp(F(K3 - 1) * log(max(ratio, F(1e-37))))
        low = F(1) + ratio * power
        slope = F(1) / (F(1) + ratio) + F(2 * K1 * K3) * power / (low * low)
        return d_theta + F(1 / N) * slope * theta / sigma2, d_sigma2 * sigma2 - F(0.5 / N) * ratio * slope

    return gradient


# %%
@njit(fastmath=SAFE, error_model="numpy")
def adam(x, d, m, v, rate, correction):
    m, v = F(BETA1) * m + F(1 - BETA1) * d, F(BETA2) * v + F(1 - BETA2) * (d * d)
    return x - rate * m / (math.sqrt(v * correction) + F(EPSILON)), m, v


# %%
def make_sweep(exp, log):
    gradient = make_gradient(exp, log)

    @njit(parallel=True, fastmath=SAFE, error_model="numpy")
    def sweep(theta, log_sigma2, d_theta, d_sigma2, m1, v1, m2, v2, rate, correction):
        for i in prange(theta.size):
            g, h = gradient(theta[i], log_sigma2[i], d_theta[i], d_sigma2[i])
            theta[i], m1[i], v1[i] = adam(theta[i], g, m1[i], v1[i], rate, correction)
            moved_to, m2[i], v2[i] = adam(log_sigma2[i], h, m2[i], v2[i], rate, correction)
            log_sigma2[i] = min(max(moved_to, F(-20)), F(10))

    return sweep


# %%
sweep_loop = make_sweep(math.exp, math.log)


# %% sweep_bytes tags=["blank"]
sweep_bytes = 8 * W + 6 * W  # blank

# %% tags=["check"]
check(
    "sweep_bytes",
    lambda: sweep_bytes == 14 * 4 * WEIGHTS,
    "Count the arrays that the loop reads, and those that it writes; each has W bytes.",
    "It reads eight: two parameters, two gradients, four moments. It writes all of them but the gradients.",
)

# %%
SWEEP = PHILOX | {"update": with_sweep(sweep_loop)}
same(fresh(), SWEEP, "one pass for the update")
stages["one pass"], moved["one pass"] = (fresh(), SWEEP), moved["Philox inside"] | {"update": sweep_bytes}

# %% [markdown]
# Two things may be in the way. `math.exp` and `math.log` are calls to the C library, a number at a time, and a loop with calls does not become vector
# code, which does several numbers per instruction. NumPy has vector versions. And LLVM, the compiler behind Numba, may give up on a long loop over
# many arrays, since it would have to make sure that none of them overlap; the package's own update, which is longer, was such a case. Which of the two
# is it here? Exercise 4 finds out.
#
# **Vector code.** So mend both: write `exp` and `log` as polynomials without branches (the package has them), and cut the long loop in short ones over few
# arrays, in blocks of 1,024 weights that stay in the first-level cache. Still one pass over memory.

# %%
from svd_numpy.kernels.cpu.simd import exp32, log32, max32, min32

BLOCK = 1024


# %%
@njit(fastmath=SAFE, error_model="numpy")
def gradient_block(theta, log_sigma2, d_theta, d_sigma2):
    for i in range(theta.size):
        sigma2 = exp32(log_sigma2[i])
        ratio = theta[i] * theta[i] / sigma2
        power = F(E_K2) * exp32(F(K3 - 1) * log32(max32(ratio, F(1e-37))))
        low = F(1) + ratio * power
        slope = F(1) / (F(1) + ratio) + F(2 * K1 * K3) * power / (low * low)
        d_theta[i] += F(1 / N) * slope * theta[i] / sigma2
        d_sigma2[i] = d_sigma2[i] * sigma2 - F(0.5 / N) * ratio * slope


# %%
@njit(fastmath=SAFE, error_model="numpy")
def adam_block(x, d, m, v, rate, correction, low, high):
    for i in range(x.size):
        m[i] = F(BETA1) * m[i] + F(1 - BETA1) * d[i]
        v[i] = F(BETA2) * v[i] + F(1 - BETA2) * (d[i] * d[i])
        x[i] = min32(max32(x[i] - rate * m[i] / (math.sqrt(v[i] * correction) + F(EPSILON)), low), high)


# %%
@njit(parallel=True, fastmath=SAFE, error_model="numpy")
def sweep_blocks(theta, log_sigma2, d_theta, d_sigma2, m1, v1, m2, v2, rate, correction):
    for block in prange((theta.size + BLOCK - 1) // BLOCK):
        at = slice(block * BLOCK, min((block + 1) * BLOCK, theta.size))
        gradient_block(theta[at], log_sigma2[at], d_theta[at], d_sigma2[at])
        adam_block(theta[at], d_theta[at], m1[at], v1[at], rate, correction, F(-3e38), F(3e38))
        adam_block(log_sigma2[at], d_sigma2[at], m2[at], v2[at], rate, correction, F(-20), F(10))


# %%
BLOCKS = PHILOX | {"update": with_sweep(sweep_blocks)}
same(fresh(), BLOCKS, "vector code in blocks")
stages["vector code"], moved["vector code"] = (fresh(), BLOCKS), moved["one pass"]

# %% [markdown]
# **The package.** What is left is forward and backward. The package's kernels multiply for mean and variance tile by tile, square `x` and
# exponentiate $\log\sigma^2$ while they pack them, and sample where the products are still in a cache; no array of squares or of $\sigma^2$ exists.


# %%
same(*packaged("numba"), "the package")
stages["the package"] = packaged("numba")
forward_bytes, backward_bytes = X + 2 * W + 2 * Y, X + 2 * Y + 2 * W  # every array once
moved["the package"] = dict(zip(NAIVE, (forward_bytes, 5 * Y, backward_bytes, 14 * W), strict=True))

# %% tags=["cover"]
took = race(stages, ROUNDS)
fig, ax = plt.subplots(figsize=(8.2, 3.9))
left = np.zeros(len(took))
for part, colour in zip(NAIVE, ("train", "sparsity", "accent", "test"), strict=True):
    width = np.array([took[name][part] for name in took])
    ax.barh(list(took), width, left=left, color=COLOURS[colour], label=part)
    left += width
for row, total in enumerate(left):
    ax.text(total + 0.01 * left.max(), row, f"{total:.2f} ms", va="center", fontsize=9)
ax.invert_yaxis()
ax.set(xlabel="ms per step, one core", xlim=(0, 1.12 * left.max()), title="The same step, eight times")
ax.legend(loc="lower right")
plt.show()
slowest = {name: max(parts, key=parts.get) for name, parts in took.items()}
print(f"longest part at first: {slowest['NumPy, float64']}; in the package: {slowest['the package']}")

# %% [markdown]
# Read it bar by bar, against your predictions. What fusing takes away is traffic: counted by machine for NumPy, by hand for the loops. In the package's bar, sampling is part of the forward pass.
#
# Now put every stage on the roofline of this core.

# %%
FLOP = 8 * B * WEIGHTS + 40 * WEIGHTS + 10 * B * UNITS  # products; update and sampling, about
ADAM_SPEED = bandwidth(8 * W)  # of a working set as large as the update's
fig, ax = plt.subplots(figsize=(8.2, 4))
reach = np.logspace(-0.5, 1.7, 100)
for speed, style, label in (
    (ADAM_SPEED, "-", "7.5 MB at a time"),
    (speeds[-1], "--", f"{sizes[-1] / 1e6:.0f} MB at a time"),
):
    ax.loglog(reach, np.minimum(PEAK, reach * speed) / 1e9, style, color=COLOURS["ink"], linewidth=1.4, label=label)
points = [(FLOP / sum(moved[name].values()), FLOP / sum(took[name].values()) / 1e6) for name in took]
groups = []  # neighbours share a label, so that no two lie on top of each other
for number in sorted(range(len(points)), key=points.__getitem__):
    near = groups and max(abs(np.log(np.divide(points[number], points[groups[-1][-1]])))) < 0.17
    groups[-1].append(number) if near else groups.append([number])
for group in groups:
    ax.plot(*zip(*(points[number] for number in group), strict=True), "o", color=COLOURS["test"])
    label, at = ", ".join(str(number + 1) for number in sorted(group)), np.mean([points[n] for n in group], axis=0)
    ax.annotate(label, at, (-8, -3), textcoords="offset points", ha="right", fontsize=9)
names = "\n".join(f"{number + 1}  {name}" for number, name in enumerate(took))
ax.text(1.03, 1, names, transform=ax.transAxes, va="top", fontsize=9)
ax.set(xlabel="operations per byte", ylabel="GFLOP/s", title="Less traffic is a step to the right")
ax.legend(loc="lower right", title="memory limit")
fig.tight_layout()
plt.show()
total = {name: sum(parts.values()) for name, parts in moved.items()}
assert total["NumPy, float64"] == 2 * total["NumPy, float32"]
assert total["NumPy, float32"] > total["one pass"] == total["vector code"] > total["the package"]

# %% [markdown]
# Points move right as traffic falls, and up as the time falls. Two stages share a place on the axis: one pass and vector code move the same bytes, and
# differ in how they compute. A roofline says what could be, not what is; a point far below it asks for a reason, such as calls in a loop. And a point
# may lie above a memory line, where its operations touch less at a time than that line stands for.
#
# Part by part, how far is the package from the limits of this core?

# %%
operations = (4 * B * WEIGHTS + 10 * B * UNITS, 2 * B * UNITS, 4 * B * WEIGHTS, 40 * WEIGHTS)
least = {}
for (part, size), work in zip(moved["the package"].items(), operations, strict=True):
    both = {"arithmetic": 1e3 * work / PEAK, "memory": 1e3 * size / bandwidth(size)}
    limit = max(both, key=both.get)
    least[f"{part}\n(limit: {limit})"] = both[limit]
fig, ax = plt.subplots(figsize=(7.4, 3))
rows, measured = np.arange(4), list(took["the package"].values())
ax.barh(rows - 0.18, measured, 0.34, color=COLOURS["test"], label="measured")
ax.barh(rows + 0.18, list(least.values()), 0.34, color=COLOURS["ink"], label="at least, by the roofline")
ax.set(yticks=rows, yticklabels=least, xlabel="ms, one core", title="The package and the limits of this core")
ax.invert_yaxis()
ax.legend(loc=(0.55, 0.56))
plt.show()

# %% [markdown]
# The update costs the same for any batch, since it is done once per weight, so with small batches it takes most of the time. Move the batch and see.
# (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import IntSlider


@slide(batch=IntSlider(min=10, max=1000, step=10, value=100))
def show_floors(batch):
    """Least times of products and update for a batch size."""
    fig, ax = plt.subplots(figsize=(6, 1.6))
    floors = 8e3 * batch * WEIGHTS / PEAK, 14e3 * W / ADAM_SPEED
    ax.barh(["products", "update"], floors, color=[COLOURS["train"], COLOURS["test"]])
    ax.set(xlabel="ms, at least", xlim=(0, 8e6 * WEIGHTS / PEAK))


# %% [markdown]
# ## The same with the package
#
# The last bar *is* the package: `get_backend("numba")` does these four parts, on as many cores as you let it have. Training has one more way to save
# time, and it is the largest: not to compute with weights that have died. [Notebook 11](11_train_faster.ipynb) does that.
#
# ## Exercises
#
# **Exercise 1.** Write `0.5` instead of `F(0.5)` in a Numba function `f` of a float32. What type does it return (after a call, `f.nopython_signatures` says), and what does
# that do to a vector loop?
#
# **Exercise 2.** Below which batch size does the update take longer than the products, if both ran at the limits of this core?
#
# **Exercise 3.** The sum of an array by `prange` adds per thread, so its bits depend on the number of threads. Write one whose bits do not. (A trap: in a parallel function
# Numba shares out `.sum()` as well, so do the last sum outside.)
#
# **Exercise 4.** What held the one pass back, the calls or the long loop? Give `make_sweep` the functions `exp32` and `log32`, and time the update three ways. (`race` takes
# a state and parts for each name, as in `stages`.)


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. float64: every number is converted, computed in vectors of half as many, and converted back.
HALF = F(0.5)
halves = {"0.5": njit(lambda x: x * 0.5), "F(0.5)": njit(lambda x: x * HALF)}
for text, halve in halves.items():
    halve(F(1))
    print(f"float32 times {text} is {halve.nopython_signatures[0].return_type}")
assert str(halves["0.5"].nopython_signatures[0].return_type) == "float64"

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. 8 B W operations / peak = 14 W * 4 bytes / speed: the number of weights cancels.
even = 7 * PEAK / ADAM_SPEED
print(f"below about {even:.0f} examples")
assert np.isclose(8 * even * WEIGHTS / PEAK, 14 * W / ADAM_SPEED)


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. Cut the array by its length alone, add each piece in order, then the pieces.
@njit(parallel=True)
def fixed_parts(x):
    parts = np.empty(64, np.float32)
    for part in prange(64):
        total = F(0)
        for i in range(part * x.size // 64, (part + 1) * x.size // 64):
            total += x[i]
        parts[part] = total
    return parts


def fixed_sum(x):
    return float(fixed_parts(x).sum())  # outside: in a parallel function Numba would share this sum out, too


threads = sorted({1, CORES})
numbers, sums = np.random.default_rng(3).normal(size=100_000).astype(F), set()
for count_of in threads:
    numba.set_num_threads(count_of)
    sums.add(fixed_sum(numbers))
numba.set_num_threads(1)
assert len(sums) == 1 and np.isclose(sums.pop(), numbers.sum(), atol=0.1)
print("the same bits with", " and ".join(map(str, threads)), "thread(s)")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. Compare: calls in a long loop, polynomials in a long loop, polynomials in short loops.
LONG = PHILOX | {"update": with_sweep(make_sweep(exp32, log32))}
same(fresh(), LONG, "polynomials in one loop")
three = {"calls, one loop": (fresh(), SWEEP), "polynomials, one loop": (fresh(), LONG)}
three["polynomials, short loops"] = fresh(), BLOCKS
for name, parts in race(three, ROUNDS).items():
    print(f"{name}: {parts['update']:.2f} ms")

# %% [markdown]
# ## In practice
#
# Measure before you rewrite, and count bytes before you blame arithmetic. Use float32 and `out=` where NumPy is fast enough; it often is. Write a
# kernel where several passes over the same arrays can become one, test it against the slow version, keep that version, and look at the roofline for
# what is left. Do not let two thread pools fight over the same cores: NumPy's products and Numba's loops each have one. And remember the first call:
# a kernel is compiled then, for seconds. The package keeps its compiled kernels on disk.
#
# ## Further reading
#
# - `svd_numpy/kernels/cpu/sweep.py`: [the update](../svd_numpy/kernels/cpu/sweep.py), in blocks, for every prior; `gemm.py` and `tiles.py`: the products.
# - [The kernels beside the machine's limits](../benchmarks/results/kernels.md), with how they were measured.
# - Williams, Waterman, Patterson: [Roofline](https://doi.org/10.1145/1498765.1498785), 2009. Goto, van de Geijn: [Anatomy of High-Performance Matrix
#   Multiplication](https://doi.org/10.1145/1356052.1356053), 2008.
# - Numba: [Performance tips](https://numba.readthedocs.io/en/stable/user/performance-tips.html).
