# %% [markdown]
# # How many bytes is 68×?
#
# **What you'll do.** Train a sparse network and make it small, one question at a time: how to write down *where* the weights are, how many digits of each are
# worth writing down, what a file really weighs, and whether any of it makes the network faster.
#
# **What you'll learn.** Why the same network is "68 times" and "32 times" smaller, several ways to store places and the bound that none can beat, how the
# posterior says which bits are noise, and from which density on sparsity pays in time.
#
# **What you'll need.** NumPy, binary numbers, and what $\log\alpha$ is ([notebook 1](01_price_a_weight.ipynb)). About 45 minutes. It uses MNIST where that
# is installed, otherwise scikit-learn's small digits.

# %% tags=["setup"]
# From cells.py.

# %% tags=["results"]
import importlib.util
import json
import tempfile
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy.experiments.recipes import get_recipe, stretch
from svd_numpy.plots import COLOURS, STYLE
from svd_numpy.sparse import DenseOp, SparseModel, TakeOp, Weights

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs, on fewer images
rng = np.random.default_rng(0)


# %% tags=["helpers"]
def show_ticks(axis, ticks, labels=None):
    """Label these places of a logarithmic axis, and no others."""
    axis.set_ticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def one_layer(matrix):
    """A network of one layer in the sparse form."""
    index = np.arange(len(matrix), dtype=np.int32)
    take = TakeOp("input", (len(matrix),), (len(matrix),), index, None)
    offset = np.zeros(matrix.shape[1], np.float32)
    op = DenseOp("dense", matrix.shape, index, Weights.from_matrix(matrix, "sparse"), offset, True)
    return SparseModel([take, op], svd.Categorical())


# %% [markdown]
# ## What 68 counts
#
# Molchanov, Ashukha and Vetrov (2017) print 68 for LeNet-300-100: all weights / weights kept. So about 3,900 of 266,200 weights are left.
#
# **Predict.** A float takes 4 bytes. If the file also says where those weights belong, how many times smaller is it: 68, 50, 32 or 20 times?
#
# The usual way is **CSR**, *compressed sparse rows*: the values row by row, a column index for each, and for each row where it begins.

# %%
WEIGHTS, KEPT, OUTPUTS = 266_200, 266_200 / 68, 300 + 100 + 10
plain = 4 * WEIGHTS


# %% csr_bytes tags=["blank"]
def csr_bytes(kept, rows, index_bytes, value_bytes=4):
    """Values, column indices, and 4-byte row pointers, of which a matrix has one more than rows."""
    return kept * (value_bytes + index_bytes) + 4 * (rows + 1)  # blank


# %% tags=["check"]
check(
    "csr_bytes",
    lambda: csr_bytes(10, 3, 2) == 76 and csr_bytes(10, 3, 4, 1) == 66,
    "Each kept weight has a value and an index.",
    "Then rows + 1 pointers of 4 bytes.",
)

# %%
for what, size in (
    ("values alone", 4 * KEPT),
    ("values and 410 biases", 4 * (KEPT + OUTPUTS)),
    ("CSR, 16-bit indices", csr_bytes(KEPT, OUTPUTS + 2, 2)),
    ("CSR, 32-bit indices", csr_bytes(KEPT, OUTPUTS + 2, 4)),
):
    print(f"{what:22} {size:8,.0f} bytes, {plain / size:5.1f} times smaller")

# %% [markdown]
# (Three matrices have three pointers more than rows. The function adds one; `OUTPUTS + 2` adds the others.)
#
# With SciPy's indices of 32 bits an index costs as much as its value, and half of the 68 is gone. Nothing is wrong with either number, but
# **a compression ratio without the name of what was counted means nothing.**
#
# ## A network to count
#
# The recipe `default` of LeNet-300-100, much shortened and without fine-tuning, so that the weights keep their posterior. Some training images are
# held out; every choice below is made on those.

# %%
data = svd.load("auto" if FULL else "digits")
part = data.split(len(data.x_train) // 12)
config = stretch(get_recipe("lenet-300-100", "default").config, 32 if FULL else 12)
config = replace(config, finetune_epochs=0, batch_size=100 if len(part.x_train) > 10_000 else 20)

# %%
hidden = svd.VariationalDense(784, 300), svd.ReLU(), svd.VariationalDense(300, 100), svd.ReLU()
model = svd.Sequential(*hidden, svd.VariationalDense(100, 10))
history = svd.fit(model, part, config, progress=False)

# %%
layers = ("dense1", "dense2", "dense3")
matrices, bias, sigma = {}, {}, {}
for name in layers:
    keep = svd.log_alpha(model)[name] <= 3
    matrices[name] = model.parameters[f"{name}.theta"] * keep  # (inputs, outputs), zeros where pruned
    bias[name] = model.parameters[f"{name}.bias"].copy()
    sigma[name] = np.exp(model.parameters[f"{name}.log_sigma2"][keep].astype(float) / 2)
    print(f"{name}: {keep.sum():,} of {keep.size:,} weights kept, density {keep.mean():.2%}")

# %%
kept = sum(np.count_nonzero(m) for m in matrices.values())
print(f"{data.name}: {WEIGHTS / kept:.0f} times fewer weights")

# %% [markdown]
# ## Where are they?
#
# CSR by hand, with a row for each output:


# %%
def to_csr(matrix):
    """Values, column indices and row pointers of an (inputs, outputs) matrix, one row per output."""
    rows, columns = np.nonzero(matrix.T)
    return matrix.T[rows, columns], columns, np.searchsorted(rows, np.arange(matrix.shape[1] + 1))


def csr_product(csr, x):
    """x @ matrix, row by row of the stored matrix."""
    values, columns, starts = csr
    return np.stack([x[:, columns[a:b]] @ values[a:b] for a, b in zip(starts, starts[1:], strict=False)], axis=1)  # noqa: RUF007


# %%
x = part.x_valid[:50] / np.float32(255)
assert np.allclose(csr_product(to_csr(matrices["dense1"]), x), x @ matrices["dense1"], atol=1e-4)
print("values, columns, row pointers of dense1:", [array.shape for array in to_csr(matrices["dense1"])])

# %% [markdown]
# Columns go from 0 to 783: 16 bits are plenty, 10 would do, 8 are too few. Deep Compression (Han and others, 2016) stores the **gap** to the weight before instead of the place. Gaps
# are small numbers. Where one is too large for its bits, a zero is stored in between, as padding.


# %%
def to_gaps(matrix, width):
    """One list of (zeros in between, value), with gaps of `width` bits."""
    flat = matrix.T.ravel()
    places = np.flatnonzero(flat)
    between = np.diff(places, prepend=-1) - 1
    at = np.cumsum(between // 2**width + 1) - 1  # an entry for each weight, behind its paddings
    gaps, values = np.full(at[-1] + 1, 2**width - 1), np.zeros(at[-1] + 1, np.float32)
    gaps[at], values[at] = between % 2**width, flat[places]
    return gaps, values


# %%
def from_gaps(gaps, values, shape):
    """The matrix again."""
    flat = np.zeros(shape[0] * shape[1], np.float32)
    flat[np.cumsum(gaps + 1) - 1] = values
    return flat.reshape(shape[::-1]).T


# %%
for name, matrix in matrices.items():
    assert np.array_equal(from_gaps(*to_gaps(matrix, 5), matrix.shape), matrix), name
print("three matrices stored as gaps and read back")

# %% [markdown]
# **Predict.** Deep Compression takes 5 bits for dense layers, which it prunes to about one weight in ten. Here far fewer are left. What is the best width now?

# %%
widths = np.arange(2, 15)
fig, ax = plt.subplots(figsize=(7, 3.2))
best = {}
for (name, matrix), colour in zip(matrices.items(), ("train", "sparsity", "accent"), strict=True):
    size = np.array([len(to_gaps(matrix, w)[0]) * (w + 32) / np.count_nonzero(matrix) for w in widths])
    best[name] = int(widths[size.argmin()])
    density = np.count_nonzero(matrix) / matrix.size
    label = f"{name}: density {density:.1%}, best {best[name]}"
    ax.plot(widths, size, "o-", markersize=3, color=COLOURS[colour], label=label)
ax.axvline(5, color=COLOURS["ink"], linestyle="--", linewidth=1, label="5 bits")
ax.set(
    xlabel="bits of a gap", ylabel="bits per kept weight", ylim=(30, 200), title="Too narrow: padding. Too wide: waste"
)
ax.legend()
plt.show()
assert best["dense1"] > 5

# %% [markdown]
# A gap that is too narrow is expensive: every padding costs a whole value. So 5 bits are right for a tenth and wrong for a hundredth. **A format has a density for which it was made.**
#
# Two more ways. A **bitmap** says yes or no for each weight: 1 bit each, kept or not. And the **entropy bound**: if weights are kept
# independently with probability $p$, no code can say which of $n$ weights are kept in fewer bits, on average, than
#
# $$n\,H(p), \qquad H(p) = -p\log_2 p - (1-p)\log_2(1-p).$$


# %% entropy tags=["blank"]
def entropy(p):
    """Bits per yes or no of chance p."""
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))  # blank


# %% tags=["check"]
check(
    "entropy",
    lambda: np.isclose(entropy(0.5), 1) and np.isclose(entropy(0.11), 0.5, atol=1e-3),
    "The formula above, with np.log2.",
    "Both terms are negative: -(p * np.log2(p) + ...).",
)


# %%
def gap_cost(p, value=32):
    """Bits per kept weight of gaps at random places, at the best width, without the value itself."""
    padding = [1 / -np.expm1(2.0**w * np.log1p(-p)) for w in widths]  # entries per kept weight
    return min(entries * (w + value) for entries, w in zip(padding, widths, strict=True)) - value


# %%
p = np.geomspace(0.001, 0.6, 200)
fig, ax = plt.subplots(figsize=(7, 3.6))
ax.axhline(32, color=COLOURS["pruned"], label="32-bit index")
ax.axhline(16, color=COLOURS["ink"], label="16-bit index")
ax.plot(p, 1 / p, color=COLOURS["test"], label="bitmap")
ax.plot(p, [gap_cost(q) for q in p], color=COLOURS["train"], label="gaps, best width")
ax.plot(p, entropy(p) / p, "--", color=COLOURS["sparsity"], label="entropy bound")
for name, matrix in matrices.items():
    density = np.count_nonzero(matrix) / matrix.size
    ax.axvline(density, color=COLOURS["dead"], linewidth=4, zorder=0)
    ax.text(density, 0.65, name, rotation=90, fontsize=8, ha="center", va="bottom")
ax.set(xscale="log", yscale="log", ylim=(0.6, 100), title="What a place costs")
ax.set(xlabel="density p", ylabel="bits per kept weight")
show_ticks(ax.xaxis, [0.003, 0.01, 0.03, 0.1, 0.3], ["0.3 %", "1 %", "3 %", "10 %", "30 %"])
show_ticks(ax.yaxis, [1, 3, 10, 30, 100])
ax.legend(loc="lower left")
assert max(gap_cost(q) - entropy(q) / q for q in p[p < 0.1]) < 2 and 1 / p[-1] < gap_cost(p[-1])
plt.show()

# %% [markdown]
# The sparser the network, the more each place costs, even at the bound: at one weight in a hundred it takes 8 bits to say where, at one in three less than 3. Gaps of the best
# width stay within two bits of the bound up to one weight in ten; where every second weight is kept, a bitmap beats them.
#
# All of it together, for our network, with values of 32 bits:

# %%
n = np.array([np.count_nonzero(m) for m in matrices.values()])
size = np.array([m.size for m in matrices.values()])
gap_list = [(w, len(to_gaps(m, w)[0])) for m, w in zip(matrices.values(), best.values(), strict=True)]
FORMATS = {  # bits of values, of places
    "CSR, 32-bit index": (32 * kept, 32 * kept + 32 * (OUTPUTS + 3)),
    "CSR, 16-bit index": (32 * kept, 16 * kept + 32 * (OUTPUTS + 3)),
    "bitmap": (32 * kept, size.sum()),
    "gaps of 5 bits": (32 * kept, sum(len(to_gaps(m, 5)[0]) for m in matrices.values()) * 37 - 32 * kept),
    "gaps, best width": (32 * kept, sum(entries * (w + 32) for w, entries in gap_list) - 32 * kept),
    "entropy bound": (32 * kept, (size * entropy(n / size)).sum()),
}

# %% tags=["cover"]
fig, ax = plt.subplots(figsize=(7.6, 3.2))
for row, (values, places) in enumerate(FORMATS.values()):
    ax.barh(row, values / 8000, color=COLOURS["kept"], label="values" if row == 0 else None)
    ax.barh(row, places / 8000, left=values / 8000, color=COLOURS["test"], label="places" if row == 0 else None)
    ax.text((values + places) / 8000, row, f"  {8 * plain / (values + places):.0f}x", va="center", fontsize=9)
ax.set_yticks(range(len(FORMATS)), FORMATS)
ax.set(xlabel="kilobytes", title=f"One network, {WEIGHTS / kept:.0f} times fewer weights")
ax.set_xlim(0, 1.12 * max(sum(bits) for bits in FORMATS.values()) / 8000)
ax.invert_yaxis()
ax.legend(loc="lower right")
ax.grid(visible=False, axis="y")
plt.show()
assert FORMATS["gaps, best width"][1] < FORMATS["gaps, best width"][0]

# %% [markdown]
# ## How many digits of a weight are worth storing?
#
# With good places, the *values* are the larger part. But 32 bits is a habit, not a need. A weight here is a normal distribution $\mathcal N(\theta, \sigma^2)$: the
# data know it to within $\sigma$, and digits finer than that are noise. This is the idea of **Bayesian Compression** (Louizos, Ullrich and Welling, 2017). Store $\theta$ to $t$ binary digits behind the
# point, with the largest $t$ whose step $2^{-t}$ is still coarser than $2\sigma$; add a sign and the digits before the point.
#
# **Predict.** How many bits will a weight need: 24, 12, 8 or 5?


# %%
def bits_by_sigma(theta, sigma):
    """Bits of a layer: sign, whole part of the largest weight, and digits behind the point, the mean over its weights."""
    behind = np.ceil((2.0 ** -np.arange(1.0, 24)[:, None] > 2 * sigma).sum(axis=0).mean())
    return 1 + round(float(np.abs(theta).max() * 2**behind)).bit_length()


# %%
by_sigma = {name: bits_by_sigma(matrices[name], sigma[name]) for name in layers}
by_sigma2 = {name: bits_by_sigma(matrices[name], sigma[name] ** 2) for name in layers}
print("by sigma:", by_sigma, " by sigma^2:", by_sigma2)
assert list(by_sigma.values()) == list(svd.posterior_bits(model).values())

# %% [markdown]
# (The authors compared the step with $\sigma^2$, which has another unit, but gives more bits where $\sigma<1$.) Try it: round every weight to multiples of a power of two, and look at the
# error on the held-out images.


# %% rounded tags=["blank"]
def rounded(matrix, bits):
    """Multiples of the smallest power of two that reach the largest weight in codes of so many bits."""
    step = 2.0 ** np.ceil(np.log2(np.abs(matrix).max() / (2 ** (bits - 1) - 1)))
    multiples = np.rint(matrix / step) * step  # blank
    return np.asarray(multiples, np.float32)


# %% tags=["check"]
check(
    "rounded",
    lambda: np.allclose(rounded(np.array([0.3, -0.7, 1.3]), 3), [0.5, -0.5, 1.5]),
    "How many steps is a weight? Round that to a whole number.",
    "np.rint rounds; then multiply by the step again.",
)


# %%
def predict(theta, images):
    """Logits of the network in plain NumPy."""
    x = images / np.float32(255)
    for name in layers:
        x = (np.maximum(x, 0) if name != layers[0] else x) @ theta[name] + bias[name]
    return x


def error(theta):
    """Held-out error."""
    return (predict(theta, part.x_valid).argmax(axis=1) != part.y_valid).mean()


# %%
def error_with(bits, more=0):
    """Held-out error with so many bits in each layer."""
    return error({name: rounded(m, bits[name] + more) for name, m in matrices.items()})


# %%
assert np.allclose(predict(matrices, part.x_valid[:20]), model.predict(part.x_valid[:20]), atol=1e-3)
same = np.arange(2, 13)
curve = np.array([error_with(dict.fromkeys(layers, b)) for b in same])

# %%
tried = {
    "32 bits": error(matrices),
    "by sigma^2": error_with(by_sigma2),
    "by sigma": error_with(by_sigma),
    "by sigma, one fewer": error_with(by_sigma, -1),
}
for what, share in tried.items():
    more = (share - tried["32 bits"]) * len(part.y_valid)
    print(f"{what:20} held-out error {share:.2%}, {more:+.0f} images of {len(part.y_valid):,}")

# %%
if data.name == "mnist":
    assert abs(tried["by sigma^2"] - tried["32 bits"]) < 0.003 and tried["by sigma"] < tried["32 bits"] + 0.02
    assert tried["by sigma, one fewer"] > 3 * tried["32 bits"]

# %%
weights = matrices["dense1"][matrices["dense1"] != 0]
bits, limit = by_sigma["dense1"], 1.05 * np.abs(weights).max()

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3), width_ratios=(1.2, 1))
left.hist(weights, np.linspace(-limit, limit, 151), color=COLOURS["kept"], alpha=0.5, label="32 bits")
levels, counts = np.unique(rounded(weights, bits), return_counts=True)
if data.name == "mnist":
    assert levels[counts.argmax()] == 0
left.vlines(levels, 0, counts, color=COLOURS["test"], linewidth=1.5, label=f"{bits} bits")
left.axvspan(-sigma["dense1"].mean(), sigma["dense1"].mean(), color=COLOURS["dead"], zorder=0, label="± mean σ")
left.set(
    xlabel="weight of dense1", ylabel="weights", yscale="log", xlim=(-limit, limit), title="Before and after rounding"
)
right.plot(same, 100 * curve, "o-", color=COLOURS["test"], markersize=4)
for rule, mark, label in ((by_sigma, "D", "bits by σ (mean)"), (by_sigma2, "^", "bits by σ² (mean)")):
    right.plot(np.mean(list(rule.values())), 100 * error_with(rule), mark, color=COLOURS["sparsity"], label=label)
right.axhline(100 * error(matrices), color=COLOURS["ink"], linestyle="--", linewidth=1, label="32 bits")
right.set(xlabel="bits per weight, all layers", ylabel="held-out error (%)", yscale="log", title="How few will do")
show_ticks(right.yaxis, [2, 5, 10, 20, 50, 90])
left.legend(fontsize=8)
right.legend(fontsize=8)
fig.tight_layout()
plt.show()

# %% [markdown]
# (The longest line on the left stands at 0: weights that rounding makes 0 need not be stored at all.) With one bit fewer than $\sigma$ asks for, the network breaks. With as many as $\sigma$
# asks for, it works, but some dozens of images more are wrong (about a percentage point). With the bits of $\sigma^2$ hardly anything is lost. And the posterior knew that without looking at
# a single held-out image: a network trained *with* noise of size $\sigma$ tolerates rounding errors of about that size.
#
# Change the bits yourself. (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import IntSlider


@slide(bits=IntSlider(min=2, max=12, value=5, description="bits"))
def show_rounded(bits):
    """Weights of the first layer against their rounded values, and the held-out error."""
    fig, ax = plt.subplots(figsize=(5.4, 3))
    ax.plot(weights, rounded(weights, bits), ".", color=COLOURS["train"], markersize=3)
    ax.set(xlabel="weight", ylabel="rounded")
    ax.set_title(f"{bits} bits: held-out error {error({k: rounded(m, bits) for k, m in matrices.items()}):.2%}")


# %% [markdown]
# ## What does a file weigh?
#
# So far we added up bits on paper. A file also has biases, shapes and a checksum. The package compacts (`compress`), finds few bits for each array on held-out images (`search_bits`), rounds (`quantise`), and packs by an
# arithmetic coder (`save_packed`), which learns on the way how frequent each gap and each value is.

# %%
small = svd.compress(model)
tiny = svd.quantise(small, svd.search_bits(small, part.x_valid, part.y_valid, tolerance=0.002))
folder = pathlib.Path(tempfile.mkdtemp())
arrays = matrices | {f"{name}.bias": bias[name] for name in layers}
model.save(folder / "with posterior.safetensors")
small.save(folder / "compact.safetensors")
svd.save_packed(folder / "compact, packed.svdz", small)
svd.save_packed(folder / "rounded, packed.svdz", tiny)
np.savez(folder / "dense, float32.npz", **arrays)
np.savez_compressed(folder / "the same, zipped.npz", **arrays)

# %%
on_disk = {path.stem: path.stat().st_size for path in folder.iterdir()}
on_disk = dict(sorted(on_disk.items(), key=lambda item: -item[1]))
again = svd.load_packed(folder / "rounded, packed.svdz")
for name, network in (("pruned", small), ("rounded and packed", again)):
    wrong = (network.predict(data.x_test).argmax(axis=1) != data.y_test).mean()
    print(f"test error, {name}: {wrong:.2%}")

# %%
fig, ax = plt.subplots(figsize=(7.6, 2.9))
whole = on_disk["dense, float32"]
for row, (name, size) in enumerate(on_disk.items()):
    ax.barh(row, size, color=COLOURS["sparsity"] if "packed" in name else COLOURS["kept"])
    ax.text(size, row, f"  {size:,} bytes, {whole / size:.1f}x", va="center", fontsize=9)
ax.set_yticks(range(len(on_disk)), on_disk)
ax.set(xscale="log", xlim=(1e3, 3e7), xlabel="bytes on disk", title="One network, six files")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()
assert max(on_disk, key=on_disk.get) == "with posterior"
assert on_disk["rounded, packed"] < on_disk["compact, packed"] < on_disk["the same, zipped"] < whole

# %% [markdown]
# The largest file is the one that training leaves: it holds a $\theta$ and a $\log\sigma^2$ for every weight, dead ones too. Pruning alone makes no file smaller, but zipping the zeros helps a lot.
#
# ## And is it faster?
#
# Not by zeros alone: a matrix product multiplies by them at full price. Two things help. First, **cut out what is dead**: inputs that no unit reads, and units without inputs or readers. Draw dense1, rows and
# columns sorted by how much is left:

# %%
alive = matrices["dense1"] != 0
rows, columns = (np.argsort(-alive.sum(axis=axis), kind="stable") for axis in (1, 0))
live = alive.any(axis=1).sum(), alive.any(axis=0).sum()
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4))
for ax, mask, title in ((left, alive, "dense1 as trained"), (right, alive[np.ix_(rows, columns)], "sorted")):
    i, j = np.nonzero(mask)
    ax.plot(i, j, ".", color=COLOURS["kept"], markersize=1)
    ax.set(xlim=(0, 784), ylim=(300, 0), xlabel="input", ylabel="unit", title=title)
    ax.grid(visible=False)
right.add_patch(plt.Rectangle((0, 0), *live, facecolor="none", edgecolor=COLOURS["test"], linewidth=1.5))
right.text(5, live[1] + 4, f"live: {live[0]} x {live[1]}", color=COLOURS["test"], va="top")
fig.tight_layout()
plt.show()
print(small)
reached = alive.any(axis=0) & (matrices["dense2"] != 0).any(axis=1)
print(f"units of dense1 with an input: {live[1]}; that dense2 also reads: {reached.sum()}")
assert small.ops[1].weights.shape[1] <= reached.sum() <= live[1]

# %% [markdown]
# (`compress` goes further than the picture: a unit that nobody reads is cut out, too, and so are inputs that only such units read.) The live sub-matrix is smaller, but still mostly zeros. So, second, **use a kernel that walks through the kept weights only**. Its price is that it must look up where each one belongs.
#
# How do you time such a thing honestly? Same images, same outputs; take turns, so that a disturbance hits all; many calls a turn, since the threads of one library may go
# on spinning for a while and take the other's cores; and keep the *fastest* call, since other programs can only add time.


# %%
def fastest(calls, seconds, turns=5):
    """Microseconds of the fastest call of each, in turns of many calls."""
    best = dict.fromkeys(calls, np.inf)
    for name, call in [*calls.items()] * turns:
        end = time.perf_counter() + seconds / turns / len(calls)
        while time.perf_counter() < end:
            start = time.perf_counter_ns()
            call()
            best[name] = min(best[name], (time.perf_counter_ns() - start) / 1000)
    return best


# %%
pixels = (part.x_valid / 255).astype(np.float32)
assert np.allclose(small.predict(pixels[:100]), predict(matrices, part.x_valid[:100]), atol=1e-3)
stacked = [(np.ascontiguousarray(matrices[name]), bias[name]) for name in layers]


def dense_numpy(x):
    """The pruned network, zeros and all."""
    for number, (matrix, offset) in enumerate(stacked):
        x = (np.maximum(x, 0) if number else x) @ matrix + offset
    return x


# %%
print(f"{'images':>8}{'NumPy, dense':>15}{'compact':>10}   microseconds, {os.cpu_count()} cores seen")
for batch in (1, 100, min(2000, len(pixels))):
    x = pixels[:batch]
    took = fastest({"dense": lambda x=x: dense_numpy(x), "compact": lambda x=x: small.predict(x)}, 1.0 if FULL else 0.1)
    print(f"{batch:8,}{took['dense']:15.1f}{took['compact']:10.1f}   ratio {took['dense'] / took['compact']:.1f}")

# %% [markdown]
# This is not the ratio of the weights: part of the time goes into calls, gathering inputs and moving pixels. Above which density is the sparse kernel not worth it? One layer of random weights, three sizes:

# %%
densities = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
relative = {}
for shape in ((64, 64), (300, 100), (784, 300)):
    dense = rng.standard_normal(shape).astype(np.float32)
    x = rng.random((64, shape[0]), dtype=np.float32)
    nets = {q: one_layer(dense * (rng.random(shape) < q)) for q in densities}
    calls = {q: (lambda net=net, x=x: net.predict(x)) for q, net in nets.items()}
    took = fastest(calls | {"numpy": lambda x=x, dense=dense: np.maximum(x @ dense, 0)}, 1.5 if FULL else 0.1)
    relative[shape] = np.array([took[q] / took["numpy"] for q in densities])

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
for (shape, ratio), colour in zip(relative.items(), ("accent", "sparsity", "train"), strict=True):
    ax.plot(densities, ratio, "o-", markersize=4, color=COLOURS[colour], label=f"{shape[0]} x {shape[1]}")
ax.axhline(1, color=COLOURS["ink"], linestyle="--", linewidth=1, label="as fast as dense")
ax.set(xscale="log", yscale="log", title="Break-even, 64 images at a time")
ax.set(xlabel="density", ylabel="time / time of dense NumPy")
show_ticks(ax.xaxis, densities, [f"{q:.0%}" for q in densities])
show_ticks(ax.yaxis, [0.05, 0.1, 0.2, 0.5, 1, 2, 5])
ax.legend()
plt.show()

# %% [markdown]
# Where a line crosses the dashed one, sparsity stops paying on this machine, at the moment when this was measured. A short measurement beside other programs can be far off.
# The repository's own, on a quiet machine, says:

# %% tags=["results"]
path = pathlib.Path("..", "benchmarks", "results", "break_even.json")
for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []:
    if row["batch"] == 64 and row["shape"] != [1000, 1000]:
        print(f"{row['shape'][0]} x {row['shape'][1]}, 64 images: as fast as NumPy at density {row['even_blas']:.0%}")

# %% [markdown]
# The 1 % of the smallest layer is the lowest density that was tried: there, NumPy always won. The smaller the layer, the less there is to gain: in the end the call itself costs more than the arithmetic. And
# a full matrix is better left dense: a weight on a list costs more than one in a matrix, since its place has to be looked up.
# ([`break_even.md`](../benchmarks/results/break_even.md) has more sizes and batches.)
#
# ## The same with the package
#
# `svd.sizes` counts in the way of every paper, and says which.

# %%
print(svd.sizes(tiny))
assert svd.sizes(tiny)["packed file"].after == on_disk["rounded, packed"]

# %% [markdown]
# Ship it to a place where the package is not installed: `export_numpy` writes the arrays and, beside them, a reader that needs nothing but NumPy. ONNX goes to most other runtimes.

# %%
reader = tiny.export_numpy(folder / "net.npz")
spec = importlib.util.spec_from_file_location("net_reader", reader)
net_reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(net_reader)
outputs = net_reader.load(folder / "net.npz")(data.x_test[:100])
assert np.allclose(outputs, tiny.predict(data.x_test[:100]), atol=1e-3)
lines, size = len(reader.read_text().splitlines()), (folder / "net.npz").stat().st_size
print(f"net.npz {size:,} bytes; its reader {lines} lines of NumPy")

# %%
if importlib.util.find_spec("onnx"):
    svd.export_onnx(tiny, folder / "net.onnx")
    print(f"net.onnx {(folder / 'net.onnx').stat().st_size:,} bytes, with all zeros of the live sub-matrices")
else:
    print("onnx is not installed: pip install 'svd-numpy[export]' brings it")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Values take 8 bits. Between which two densities is a bitmap with the kept values smaller than 16-bit indices, and smaller than the whole dense matrix?
#
# **Exercise 2.** Indices of 8 bits reach 256 places, and dense1 has 784 inputs and 300 outputs, both too many. After compaction (`small.ops[1].weights` has a `shape` and a number `kept`),
# would you store it input by input or output by output? How large is it then, by `csr_bytes`?
#
# **Exercise 3.** How many bits does a *rounded* value of dense1 need on average if frequent ones get short codes? (Entropy again: with shares $p_i$ of the levels, $-\sum p_i\log_2 p_i$. The
# weights are in `weights`, their number of bits in `bits`.)
#
# **Exercise 4.** Suppose somebody stores the live sub-matrices (`op.weights.shape` for the `op` in `small.ops[1:]`) with all their zeros in 8 bits per weight. How many times smaller than the
# dense network in float32 is that, and what is its advantage?
#
# **Exercise 5.** For which densities is a gap of 5 bits the best width, if values have 32 bits? And if they have 5? (`gap_cost` has the number of entries per kept weight.)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. Bits per weight, kept or not: bitmap 1 + 8 p, indices 16 p + 8 p, dense 8.
print(f"1 + 8 p < 24 p: p > 1/16 = {1 / 16:.1%};  1 + 8 p < 8: p < 7/8 = {7 / 8:.1%}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. One row per input, a column index per output: the live outputs are few enough.
first = small.ops[1].weights
print(f"compact dense1 is {first.shape[0]} x {first.shape[1]}: {first.kept:,} weights")
if first.shape[1] <= 256:
    print(
        f"8-bit indices: {csr_bytes(first.kept, first.shape[0], 1):,} bytes; 16-bit, the other way: {csr_bytes(first.kept, first.shape[1], 2):,}"
    )
# Not for free: a row pointer for each input, of which there are more than outputs.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. Entropy of the levels. One of them is 0: kept weights that rounding makes 0.
_, counts = np.unique(rounded(weights, bits), return_counts=True)
share = counts / counts.sum()
print(f"{bits} bits per value as a plain code, {-(share * np.log2(share)).sum():.2f} bits with an ideal one")
assert -(share * np.log2(share)).sum() < bits

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. No index at all, and any matrix product can use it.
area = sum(op.weights.shape[0] * op.weights.shape[1] for op in small.ops[1:])
print(f"{area:,} bytes, {plain / area:.1f} times smaller")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. Try all widths at random places. Cheap values make padding cheap, so that narrow gaps last longer.
p = np.geomspace(0.001, 0.6, 2000)
for value in (32, 5):
    entries = 1 / -np.expm1(2.0 ** widths[:, None] * np.log1p(-p))
    five = p[widths[(entries * (widths[:, None] + value)).argmin(axis=0)] == 5]
    print(f"values of {value:2} bits: from {five.min():.1%} to {five.max():.1%}")

# %% [markdown]
# ## In practice
#
# Say what you count. For a file, round first: once places are cheap, digits are the largest saving, and rounded weights run in the same kernels. For speed, cut out dead units, then measure on the machine that
# matters, at the batch size that matters, against a good dense product. And keep the network as it was trained beside the small one, which has no posterior and no way back.
#
# ## Further reading
#
# - Han, Mao, Dally: [Deep Compression](https://arxiv.org/abs/1510.00149), 2016: gaps, shared values, Huffman codes.
# - Louizos, Ullrich, Welling: [Bayesian Compression for Deep Learning](https://arxiv.org/abs/1705.08665), 2017: bits from the posterior, groups instead of single weights.
# - Gale, Zaharia, Young, Elsen: [Sparse GPU Kernels for Deep Learning](https://arxiv.org/abs/2006.10901), 2020: what it takes to make such sparsity fast.
