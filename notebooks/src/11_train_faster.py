# %% [markdown]
# # Why training got faster
#
# **What you'll do.** Watch how few weights live towards the end of a training, remove the rest from the arithmetic without changing a single output, turn a
# matrix product into a walk along a list, and let the package train that way.
#
# **What you'll learn.** Why a dead weight costs as much as a living one, what can be cut out and what has to be put into a bias, when a list beats a
# matrix, and why small layers are computed as one stack.
#
# **What you'll need.** NumPy, $\log\alpha$ ([notebook 1](01_price_a_weight.ipynb)); it helps to have seen weights die
# ([notebook 3](03_watch_weights_die.ipynb)). About 25 minutes.

# %% tags=["setup"]
# From cells.py.

# %% tags=["results"]
import json

import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs

# %% [markdown]
# ## Work for the dead
#
# A training step multiplies every weight twice forward and four times backward. It exponentiates its $\log\sigma^2$, draws noise
# with it, and moves its two parameters and four moments. It does so for dead weights, too, which are most of them towards the end.

# %%
data = svd.load("digits")  # 28 x 28 pixels
EPOCHS = 40 if FULL else 8


def make_net():
    """784-100-10, with noisy weights."""
    return svd.Sequential(svd.VariationalDense(784, 100), svd.ReLU(), svd.VariationalDense(100, 10))


schedule = {"batch_size": 50, "lr": 3e-3, "kl_schedule": ((EPOCHS / 8, 0), (EPOCHS / 2, 1))}

# %%
net = make_net()
history = svd.fit(net, data, svd.TrainConfig(epochs=EPOCHS, **schedule), progress=False)
alive = {name: values <= 3 for name, values in svd.log_alpha(net).items()}
kept = sum(mask.sum() for mask in alive.values())
total = sum(mask.size for mask in alive.values())
print(f"{kept:,} of {total:,} weights live at the end, {kept / total:.1%}")
print(f"test error {svd.evaluate(net, data.x_test, data.y_test)['error']:.1%}")

# %%
epochs = np.arange(1, EPOCHS + 1)
share = np.array([1 / record["compression"] for record in history])
fig, ax = plt.subplots(figsize=(7, 3))
ax.fill_between(epochs, 100 * share, color=COLOURS["kept"], alpha=0.6, label="work for living weights")
ax.fill_between(epochs, 100 * share, 100, color=COLOURS["pruned"], alpha=0.6, label="work for dead weights")
ax.set(
    xlabel="epoch",
    ylabel="% of the weights",
    ylim=(0, 100),
    title=f"Over the run, {1 - share.mean():.0%} of the work is for the dead",
)
ax.legend(loc="center right", framealpha=0.9, frameon=True)
plt.show()

# %% [markdown]
# ## First cut: a smaller matrix
#
# Take the pruned network in plain NumPy. Some units of the hidden layer have lost all their inputs. They are *constants*: each gives $\mathrm{ReLU}(b)$ for
# every image. Others are read by no class. Both kinds can go.
#
# **Predict.** If you simply delete a unit that has no inputs, do the outputs stay the same?

# %%
weights = {name: net.parameters[f"{name}.theta"] * mask for name, mask in alive.items()}
bias = {name: net.parameters[f"{name}.bias"] for name in alive}

# %%
constant = ~alive["dense1"].any(axis=0)  # units without inputs
unread = ~alive["dense2"].any(axis=1)  # units that no class reads
images = (data.x_test[:200] / 255).astype(np.float32)
logits = np.maximum(images @ weights["dense1"] + bias["dense1"], 0) @ weights["dense2"] + bias["dense2"]
print(f"of 100 units, {constant.sum()} are constants and {unread.sum()} are read by nobody")

# %% [markdown]
# They do not: what a constant adds to the classes would be missing. It belongs in the bias of the next layer. Write it down.


# %% folded_bias tags=["blank"]
def folded_bias(bias1, weights2, bias2, constant):
    """The bias of the second layer once the constant units are gone."""
    values = np.maximum(bias1[constant], 0)
    return bias2 + values @ weights2[constant]  # blank


# %% tags=["check"]
check(
    "folded_bias",
    lambda: np.allclose(
        folded_bias(np.array([2.0, 9.0, -1.0]), np.array([[1.0, 3.0], [4, 4], [5, 5]]), np.ones(2), np.arange(3) != 1),
        [3, 7],
    ),
    "Each constant unit adds its value times its outgoing weights, weights2[constant].",
    "That is a product: values @ weights2[constant], on top of bias2.",
)

# %%
left = ~constant & ~unread
first, second = weights["dense1"][:, left], weights["dense2"][left]
new_bias = folded_bias(bias["dense1"], weights["dense2"], bias["dense2"], constant)
small_logits = np.maximum(images @ first + bias["dense1"][left], 0) @ second + new_bias
print(f"784 x {left.sum()} in place of 784 x 100; largest difference {np.abs(small_logits - logits).max():.0e}")
assert np.allclose(small_logits, logits, atol=1e-3)

# %% [markdown]
# Pixels that nobody reads go in the same way, as rows of the matrix. Still, the smaller matrix is mostly zeros.
#
# ## Second cut: a list
#
# So do not use a matrix at all. Store for each living weight its input $i$, its output $j$ and its value, and walk along: $y_j \mathrel{+}= x_i w$. The
# work is one multiplication for each living weight and image. The price is that $i$ and $j$ have to be read, and that the
# processor cannot keep a tile of the matrix in its registers.


# %%
def to_list(matrix):
    """Inputs, outputs and values of all weights that are not 0, output by output."""
    outputs, inputs = np.nonzero(matrix.T)
    return inputs, outputs, matrix[inputs, outputs]


# %% list_product tags=["blank"]
def list_product(x, listed, n_out):
    """x @ matrix, by walking along the list."""
    y = np.zeros((len(x), n_out), x.dtype)
    for i, j, w in zip(*listed, strict=True):
        y[:, j] += x[:, i] * w  # blank
    return y


# %% tags=["check"]
check(
    "list_product",
    lambda: np.allclose(list_product(images, to_list(first), left.sum()), images @ first, atol=1e-4),
    "One input, one output, one weight, for all images at once.",
    "y[:, j] gets what input i gives: x[:, i] times w.",
)

# %%
rows = np.count_nonzero(first.any(axis=1))
for what, work in (
    ("whole matrix", 784 * 100),
    ("smaller matrix", rows * left.sum()),
    ("list", np.count_nonzero(first)),
):
    print(f"{what:15} {work:7,} multiplications per image")

# %% [markdown]
# In Python the loop is slow, of course. The package compiles it, with the noise and all three passes. When does it pay? These are the published times of a whole
# training step of LeNet-300-100, with more and more weights gone. (Lists are used where less than two fifths of a layer lives.)

# %% tags=["cover", "results"]
path = pathlib.Path("..", "benchmarks", "results", "living-lenet-300-100.json")
report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
rows = [row for row in report["rows"] if row.get("share") and row["threads"] == 1]
fig, ax = plt.subplots(figsize=(7.4, 3.8))
if rows:
    living, ms = (np.array([row[key] for row in rows]) for key in ("share", "ms"))
    ax.loglog(100 * living, ms, "o-", color=COLOURS["test"], linewidth=2.5, label="Sparse VD, living weights only")
    for key, label, colour, dash in (
        ("whole", "the same, nothing removed", "ink", "-"),
        ("dense", "PyTorch, ordinary weights", "train", "--"),
        ("sparse_vd", "PyTorch, Sparse VD", "accent", ":"),
    ):
        others = [row[key] * row["ms"] if row[key] else np.nan for row in rows]  # tables hold the ratios
        ax.loglog(100 * living, others, dash, color=COLOURS[colour], linewidth=2, label=label)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if t >= 90 * living.min()]
    ax.set_xticks(ticks, [f"{t} %" for t in ticks])
ax.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
ax.minorticks_off()
ax.invert_xaxis()
ax.set(xlabel="weights that live", ylabel="ms per step, one thread", title="A step costs what lives")
ax.legend(loc="lower left", fontsize=9)
plt.show()

# %% tags=["results"]
for row in rows:
    print(f"{row['share']:4.0%} live: {row['ms']:.2f} ms, {row['lists']} of {row['layers']} layers on lists")
if rows:
    print(f"{report['machine']['cpu']}, {report['date']}, batch {rows[0]['batch']}, torch {report['machine']['torch']}")
    assert rows[-1]["ms"] < 0.5 * rows[0]["ms"] and rows[-1]["dense"] > 1  # as the text says

# %% [markdown]
# Down to about half, nothing is gained. Below, the time falls with the number of living weights, and in the end Sparse VD, with its noise and its twofold
# parameters, takes less time than PyTorch needs for ordinary weights. Where hardly anything is left to do, *calling* takes the time. So the
# package computes neighbouring layers on lists as one **stack**, a single call for all of them.
#
# A convolution gains less, because its weights are used at many positions:

# %% tags=["results"]
path = pathlib.Path("..", "benchmarks", "results", "living-lenet-5.json")
conv_rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
for row in conv_rows:
    if row["threads"] == 1 and row.get("share") in (1.0, 0.1, 0.01):
        print(f"LeNet-5, {row['share']:4.0%} live: {row['ms']:5.1f} ms per step")

# %% [markdown]
# ## The same with the package
#
# `remove_above` removes weights for good, mean and noise, at the end of each epoch. Is that safe? A removed weight cannot return, and just
# above 3 some do ([notebook 3](03_watch_weights_die.ipynb)). Far above, hardly any. So take 5, or wait some epochs.
#
# **Predict.** Same network, same schedule, with removal above 5: what happens to the error?

# %%
quick = make_net()
config = svd.TrainConfig(epochs=EPOCHS, remove_above=5.0, remove_from=EPOCHS // 8, **schedule)
removed = svd.fit(quick, data, config, progress=False)
for name, model in (("nothing removed", net), ("removed above 5", quick)):
    error = svd.evaluate(model, data.x_test, data.y_test)["error"]
    print(f"{name}: test error {error:.1%}, {svd.measure_sparsity(model).compression:.0f} times fewer weights")
for record in removed[EPOCHS // 8 - 1 :: EPOCHS // 4]:
    print(f"epoch {record['epoch']:2}: {record['living']:6,} weights live, {record['forms']}")

# %%
fig, ax = plt.subplots(figsize=(7, 3))
ax.semilogy(
    epochs, [record["living"] for record in removed], "o-", markersize=3, color=COLOURS["test"], label="not removed"
)
ax.semilogy(epochs, total * share, color=COLOURS["train"], label="below the threshold in a run without removal")
ax.set(xlabel="epoch", ylabel="weights", title="What the steps compute on")
ax.legend()
plt.show()
assert removed[-1]["living"] < 0.5 * total or not FULL

# %% [markdown]
# With 360 test images a difference of one percentage point is four images: the two networks are equally good. What removal does change is the
# *path*: fewer weights draw noise, so the run is another one, as with another seed.
#
# ## Exercises
#
# **Exercise 1.** A weight's noise goes with it. Which share of the noise variance of an average hidden unit goes if all weights with $\log\alpha > 5$ go? Compute it for the first network, `net`, and
# `images`. (The variance is $\sum_i x_i^2\sigma_i^2$, and $\log\sigma^2$ is in `net.parameters["dense1.log_sigma2"]`.)
#
# **Exercise 2.** The package puts a layer on a list if $2.5$ times the number of its living weights is less than the size of its matrix. At which density does it change over, and what do you
# conclude about the time for one weight on a list?
#
# **Exercise 3.** Suppose the living share falls as in the first picture and a step costs a fixed tenth plus nine tenths of the living share. How much faster is the
# whole run? (The share is in `share`, epoch by epoch.) Could a cheaper step at the end make the run ten times as fast?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. The sum of x² σ² over the weights that go, beside the whole.
sigma2 = np.exp(net.parameters["dense1.log_sigma2"])
gone = svd.log_alpha(net)["dense1"] > 5
before, lost = images**2 @ sigma2, images**2 @ (sigma2 * gone)
print(f"of the variance of an average unit, {np.mean(lost) / np.mean(before):.0%} goes")
assert np.all(lost <= before * (1 + 1e-5))

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. 2.5 n = I O, so n / (I O) = 0.4. One weight on a list takes as long as two and a half in a matrix.
print(f"density {1 / 2.5:.0%}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. Means over the epochs; the early ones, at full price, set the limit.
cost = 0.1 + 0.9 * share
print(f"{1 / cost.mean():.1f} times as fast; if dead weights cost nothing at all, {1 / share.mean():.1f} times")
print("Ten times is out of reach, whatever a late step costs, unless weights die earlier: look at the early epochs.")

# %% [markdown]
# ## In practice
#
# Use `remove_above=5` where an epoch has more than a few dozen steps and the network is mostly dense layers; the recipe `default` of LeNet-300-100 does. Choose
# the bound on held-out images. If you must know what would have returned, train once without. The
# [guide](../docs/guide/living.md) has the details, and [a table](../benchmarks/results/removal-lenet-300-100.md) of runs with several bounds.
#
# ## Further reading
#
# - [Notebook 6](06_make_it_fast.ipynb): the step itself, before anything is removed.
# - `svd_numpy/network/living.py`: [what is removed, and how the small copy is made](../svd_numpy/network/living.py).
# - Hoefler and others: [Sparsity in Deep Learning](https://arxiv.org/abs/2102.00554), 2021: when sparse training pays.
