# %% [markdown]
# # When do zeros make a network faster?
#
# **What you'll do.** Put a noisy factor, a *gate*, on every unit instead of noise on every weight; train it by hand on a problem with useless inputs; then let the
# package prune the digits' network both ways and hold a stopwatch to them.
#
# **What you'll learn.** Why scattered zeros save bytes but not time, how the price of a weight becomes the price of a unit, what to do with the gates
# after training, and when to prefer which.
#
# **What you'll need.** The price of a weight ([notebook 1](01_price_a_weight.ipynb)). About 25 minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs


# %%
def microseconds(work, seconds=0.3 if FULL else 0.02):
    """Fastest of many calls."""
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


# %% [markdown]
# ## The same number of zeros
#
# Two matrices with nineteen zeros in twenty. In one they are scattered. In the other, whole columns (units) and rows (inputs) are 0, so they can be cut out.
#
# **Predict.** How much faster than the full matrix is a product with each, in NumPy?

# %%
rng = np.random.default_rng(0)
images = rng.random((100, 784), dtype=np.float32)
full = rng.standard_normal((784, 300), dtype=np.float32)
scattered = full * (rng.random(full.shape) < 0.05)
block = np.ascontiguousarray(full[:175, :67])  # 5 % of the weights
took = {
    "full": microseconds(lambda: images @ full),
    "scattered zeros": microseconds(lambda: images @ scattered),
    "whole units gone": microseconds(lambda: images[:, :175] @ block),
}

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.6, 2.7), width_ratios=(1, 1, 1.3))
structured = np.zeros_like(full)
structured[:175, :67] = block
for ax, matrix, title in zip(axes, (scattered, structured), ("scattered zeros", "whole units gone"), strict=False):
    ax.imshow(matrix != 0, cmap="cividis", aspect="auto", interpolation="antialiased")
    ax.set(title=title, xlabel="unit", ylabel="input", xticks=[], yticks=[])
bars = axes[2].barh(list(took), list(took.values()), color=[COLOURS["ink"], COLOURS["test"], COLOURS["train"]])
axes[2].bar_label(bars, fmt="%.0f", padding=3)
axes[2].set(xlabel="µs per product", xlim=(0, 1.25 * max(took.values())), title="NumPy")
axes[2].invert_yaxis()
fig.tight_layout()
plt.show()
print(", ".join(f"{name}: {value:.0f} µs" for name, value in took.items()))

# %% [markdown]
# A matrix product multiplies by zeros at full price. (With special code it need not, see [notebook 9](09_count_the_bytes.ipynb).) A smaller matrix is faster
# everywhere: in NumPy, on a phone, on a GPU.
#
# ## From the price of a weight to the price of a unit
#
# Let a unit be multiplied by a random factor, $z = m\,(1 + \sqrt\alpha\,\varepsilon)$, and give $z$ the log-uniform prior. The KL is that of
# [notebook 1](01_price_a_weight.ipynb), with the $\alpha$ of the *gate*, and it is paid **once for the unit**, not once for each of its weights. If the
# data do not resist, $\alpha$ grows, and the unit closes, with all the weights into it and out of it. (Louizos, Ullrich and Welling 2017 do this; their prior is called
# normal-Jeffreys.)
#
# A unit of 784 inputs pays as much as a single weight. So where should the threshold be? A factor with $\alpha > 1$ is more noise than signal, and the package
# closes gates at $\log\alpha > 0$.
#
# Try it where we know the truth: twenty inputs, of which the first four determine $y$. There is a gate on each input, and its mean does the work of the weight behind it.

# %%
n = 400
x = rng.normal(size=(n, 20))
y = x[:, :4] @ np.array([1.0, -1.0, 0.5, 0.8]) + 0.3 * rng.normal(size=n)


# %% gated tags=["blank"]
def gated(x, mean, log_sigma2, noise):
    """Inputs (B, I) times their gates z = mean + sigma * noise, drawn for each example."""
    sigma = np.exp(log_sigma2 / 2)
    return x * (mean + sigma * noise)  # blank


# %% tags=["check"]
check(
    "gated",
    lambda: np.allclose(
        gated(np.array([[2.0], [3.0]]), np.array([3.0]), np.log([4.0]), np.array([[1.0], [-1.0]])), [[10], [3]]
    ),
    "Draw the gates: mean + sigma * noise.",
    "Then multiply x by them, entry by entry.",
)


# %%
def gradients(mean, log_sigma2, noise):
    """Of half the mean squared error (noise variance 0.09) plus KL / n, for mean and log_sigma2."""
    residual = (gated(x, mean, log_sigma2, noise) @ np.ones(20) - y) / 0.09 / n
    _, kl_mean, kl_log = micro.kl_divergence(mean, log_sigma2)
    d_mean = x.T @ residual + kl_mean / n
    return d_mean, ((x * noise).T @ residual) * np.exp(log_sigma2 / 2) / 2 + kl_log / n


# %%
STEPS = 3000 if FULL else 200
mean, log_sigma2 = np.ones(20) * 0.5, np.full(20, -6.0)
moments = np.zeros((2, 2, 20))
for step in range(STEPS):
    for number, (value, g) in enumerate(
        zip((mean, log_sigma2), gradients(mean, log_sigma2, rng.standard_normal((n, 20))), strict=True)
    ):
        moments[number] += np.array([[0.1], [0.001]]) * (np.array([g, g**2]) - moments[number])
        first, second = moments[number] / np.array([[1 - 0.9 ** (step + 1)], [1 - 0.999 ** (step + 1)]])
        value -= 0.01 * first / (np.sqrt(second) + 1e-8)
log_alpha = log_sigma2 - np.log(mean**2)

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
colours = np.where(log_alpha > 0, COLOURS["pruned"], COLOURS["kept"])
ax.bar(np.arange(1, 21), np.clip(log_alpha, -9, 9), color=colours)
ax.axhline(0, color=COLOURS["test"], linestyle="--", label="closed above")
ax.set(
    xlabel="input (the first four matter)",
    ylabel="log α of its gate",
    xticks=[1, 4, 5, 10, 15, 20],
    title="Gates find the useful inputs",
)
ax.legend()
plt.show()
print("open:", (np.flatnonzero(log_alpha <= 0) + 1).tolist())
if FULL:
    assert set(range(4)) <= set(np.flatnonzero(log_alpha <= 0)) and np.mean(log_alpha[4:] > 0) > 0.5

# %% [markdown]
# The four useful inputs keep precise gates. Most of the others close. Some stay open by luck: the bar is low, as [notebook 10](10_question_the_method.ipynb)
# shows. A weight whose estimate is a little more than one standard error away from 0 pays its price.
#
# ## Both ways on the digits
#
# A network 784-100-10, once with noise on every weight, once with gates on the inputs and the hidden units. (As in the paper, the
# weights behind gates are Gaussians, too, with a normal prior and little noise, which `sigma_max` bounds.)

# %%
digits = svd.load("digits")
EPOCHS = 40 if FULL else 6
schedule = {"epochs": EPOCHS, "lr": 3e-3, "batch_size": 50}
single = svd.Sequential(svd.VariationalDense(784, 100), svd.ReLU(), svd.VariationalDense(100, 10))
kl = ((EPOCHS / 8, 0.0), (EPOCHS / 2, 1.0))
history = svd.fit(single, digits, svd.TrainConfig(kl_schedule=kl, **schedule), progress=False)

# %%
units = svd.Sequential(
    *(svd.Gate(784), svd.VariationalDense(784, 100, log_sigma2=-9, sigma_max=0.2), svd.ReLU()),
    *(svd.Gate(100), svd.VariationalDense(100, 10, log_sigma2=-9)),
    prior="normal",
    input_shape=(784,),
)
kl = ((0, 0.0), (EPOCHS / 2, 0.3))
svd.fit(units, digits, svd.TrainConfig(kl_schedule=kl, finetune_epochs=max(1, EPOCHS // 8), **schedule), progress=False)
gates = [layer for layer in units.layers if isinstance(layer, svd.Gate)]
for gate in gates:
    print(f"{gate.name}: {np.count_nonzero(~gate.closed())} of {gate.num_features} open")

# %% [markdown]
# After training a gate is a number. Multiply it into the weights behind it, and it is gone.


# %% fold tags=["blank"]
def fold(weights, factors):
    """Weights (I, O) that do without the gates of their inputs, factors (I,)."""
    return factors[:, None] * weights  # blank


# %% tags=["check"]
check(
    "fold",
    lambda: np.allclose(fold(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([2.0, 0.5])), [[2, 4], [1.5, 2]]),
    "(x * factors) @ weights must be x @ fold(weights, factors): each row of the weights gets its factor.",
    "factors[:, None] is a column; it multiplies the rows.",
)

# %%
folded = svd.fold_gates(units)  # the package does this for all gates
x_test = (digits.x_test / 255).astype(np.float32)
first, second = (np.array(folded.parameters[f"dense{k}.theta"]) for k in (1, 2))
inputs, hidden = ~gates[0].closed(), ~gates[1].closed()
small = np.ascontiguousarray(first[np.ix_(inputs, hidden)]), np.ascontiguousarray(second[hidden])
bias = folded.parameters["dense1.bias"][hidden], folded.parameters["dense2.bias"]


# %%
def predict_small(x):
    """The network of the open units, two dense products."""
    return np.maximum(x[:, inputs] @ small[0] + bias[0], 0) @ small[1] + bias[1]


assert np.allclose(predict_small(x_test), folded.predict(digits.x_test), atol=1e-2)

# %%
pruned = [np.array(single.parameters[f"dense{k}.theta"]) * (svd.log_alpha(single)[f"dense{k}"] <= 3) for k in (1, 2)]
offsets = [single.parameters[f"dense{k}.bias"] for k in (1, 2)]


def predict_pruned(x):
    """The network of the single weights: the same two products with many zeros."""
    return np.maximum(x @ pruned[0] + offsets[0], 0) @ pruned[1] + offsets[1]


# %%
rows = {}
for name, net, predict, stored in (
    ("single weights", single, predict_pruned, sum(map(np.size, pruned))),
    ("whole units", folded, predict_small, sum(map(np.size, small))),
):
    error = 100 * svd.evaluate(net, digits.x_test, digits.y_test)["error"]
    kept = sum(map(np.count_nonzero, pruned)) if net is single else stored
    rows[name] = (error, kept, stored, microseconds(lambda predict=predict: predict(x_test)))

# %% tags=["cover"]
fig, axes = plt.subplots(1, 4, figsize=(8.6, 2.6))
titles = ("test error (%)", "weights left", "numbers in matrices", "µs, 360 images")
for column, (ax, title) in enumerate(zip(axes, titles, strict=True)):
    bars = ax.bar(
        ["single\nweights", "whole\nunits"],
        [row[column] for row in rows.values()],
        color=[COLOURS["test"], COLOURS["train"]],
    )
    ax.bar_label(bars, fmt="%.1f" if column == 0 else "{:,.0f}", padding=2)
    ax.set(title=title, yticks=[])
    ax.margins(y=0.2)
    ax.grid(visible=False)
fig.tight_layout()
plt.show()

# %%
for name, (error, kept, stored, spent) in rows.items():
    print(f"{name:15} error {error:.1f} %, {kept:6,} weights left, {stored:6,} numbers in matrices, {spent:5.0f} µs")
if FULL:
    assert rows["whole units"][2] < 0.5 * rows["single weights"][2]

# %% [markdown]
# Noise on single weights leaves fewer weights. Gates leave smaller matrices, and those are faster with no special code at all. Which is better depends on what you
# want to save: bytes, or time on plain hardware. (Do not compare the two errors: the KL weights, 1 and 0.3, were not tuned to each other.
# [Notebook 12](12_choose_the_dials.ipynb) says how one would.)
#
# ## The same with the package
#
# `compress` does the cutting, folding and packing for both kinds:

# %%
for name, net in (("single weights", single), ("whole units", units)):
    print(f"{name}: {svd.compress(net)}")

# %% [markdown]
# There are five families of gates, with five priors ([guide](../docs/guide/gates.md)); `train_mnist(method="bc-gnj")` and its relatives
# train the networks of their papers.
#
# ## Exercises
#
# **Exercise 1.** A unit pays as much as a single weight here. How many nats per image does it cost to keep all 884 gates at $\log\alpha = -4$, with 1,437 images? And all 79,400 weights?
# (`svd.kl_divergence(theta, log_sigma2, "log_uniform")` has the price of each.)
#
# **Exercise 2.** Draw a histogram of the gates' scores (`gate.scores()`, their $\log\alpha$). Are there two heaps? Is the threshold between them?
#
# **Exercise 3.** Prune units of the *other* network, whose weights are in `pruned`: cut out those that have no input or no reader. How small do its matrices get?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. The price at log α = -4, from notebook 1, times how many there are, over N.
price = float(svd.kl_divergence(np.ones(1), np.array([-4.0]), "log_uniform")[0])
for what, count in (("gates", 884), ("weights", 79_400)):
    print(f"{count:6,} {what}: {count * price / 1437:6.2f} nats per image")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Hidden units: a heap near -4 and a thin tail, in which the threshold lies. Inputs: a pile on the right, of
# pixels that are nearly always 0, and one broad heap that the threshold cuts. How many inputs are open depends on it.
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6))
for ax, gate in zip(axes, gates, strict=True):
    ax.hist(np.clip(gate.scores(), -12, 12), 49, color=COLOURS["kept"])
    ax.axvline(0, color=COLOURS["test"], linestyle="--")
    ax.set(title=gate.name, xlabel="score", yscale="log")
plt.show()

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. A unit stays as long as one of its weights does, so the matrices shrink far less than the number of weights.
living = pruned[0].any(axis=0) & pruned[1].any(axis=1)
read = pruned[0][:, living].any(axis=1)
print(
    f"{read.sum()} x {living.sum()} and {living.sum()} x 10: {read.sum() * living.sum() + 10 * living.sum():,} numbers"
)

# %% [markdown]
# ## In practice
#
# Ask first what you want to save. For bytes, prune single weights. For time on plain hardware, prune units. Give gates a higher learning rate than weights, since they
# have a long way to go (the package does), look at their histogram, and fine-tune after closing. Measure time on the machine that matters.
#
# ## Further reading
#
# - Louizos, Ullrich, Welling: [Bayesian Compression for Deep Learning](https://arxiv.org/abs/1705.08665), 2017.
# - Neklyudov, Molchanov, Ashukha, Vetrov: [Structured Bayesian Pruning](https://arxiv.org/abs/1705.07283), 2017.
# - Louizos, Welling, Kingma: [Learning Sparse Neural Networks through L0 Regularization](https://arxiv.org/abs/1712.01312), 2018.
# - [Which method when](../docs/guide/methods.md), in the guide.
