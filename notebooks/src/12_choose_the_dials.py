# %% [markdown]
# # How do you choose the KL weight and the threshold?
#
# **What you'll do.** Train one small network with many KL weights, draw what sparsity costs, choose by a rule, choose a threshold in the same way, and open the
# test set once. Then visit the clinic: from six histograms without labels, say what went wrong in each run.
#
# **What you'll learn.** What the KL weight buys, why every choice needs images of its own, how much of a difference is luck, and how to read a
# histogram of $\log\alpha$.
#
# **What you'll need.** The price of a weight ([notebook 1](01_price_a_weight.ipynb)) and the meaning of $N$ ([notebook 0](00_pay_for_a_weight.ipynb)). About 30
# minutes.

# %% tags=["setup"]
# From cells.py.

# %% tags=["results"]
import re

import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs
EPOCHS, SEEDS = (60, 3) if FULL else (12, 1)

# %% [markdown]
# ## Three piles of images
#
# One pile trains. One pile, the **held-out** images, chooses: KL weight, threshold, number of epochs, anything. One pile, the **test** images, is looked at once,
# when nothing is left to choose. A number that was the best of twenty is too good to be true on the pile that it was chosen on.

# %%
_, pixels, labels = micro.load_problem()  # 1,797 digits of 8 x 8 pixels
order = np.random.default_rng(0).permutation(len(pixels))
x, y = pixels[order].astype(np.float32), labels[order].astype(np.int64)
whole = svd.Dataset("digits, 8x8", x[400:], y[400:], x[:400], y[:400], None, 10, "scikit-learn")
data = whole.split(400)
print(f"{len(data.x_train)} training, {len(data.x_valid)} held-out, {len(data.x_test)} test images")


# %%
def train(kl_weight, seed=0, epochs=EPOCHS, **more):
    """A network 64-100-10 and its held-out error in %."""
    net = svd.Sequential(svd.VariationalDense(64, 100), svd.ReLU(), svd.VariationalDense(100, 10), seed=seed)
    schedule = ((0, 0.0), (epochs / 3, kl_weight)) if kl_weight else ((0, 0.0),)
    lr = more.pop("lr_schedule", ((2 * epochs / 3, 1.0), (epochs, 0.0)))
    config = svd.TrainConfig(epochs, 50, 5e-3, lr, schedule, seed=seed, **more)
    svd.fit(net, data, config, progress=False)
    return net, 100 * svd.evaluate(net, data.x_valid, data.y_valid)["error"]


# %% [markdown]
# ## What does the KL weight buy?
#
# At 1 the objective is the evidence lower bound. Nothing forbids other values: they trade error for sparsity.
#
# **Predict.** From 0.03 to 3 the KL weight grows a hundredfold. Does the error grow all along? And the compression?

# %%
BETAS = np.array([0.03, 0.1, 0.3, 1.0, 3.0])
nets, rows = {}, []
for beta in BETAS:
    for seed in range(SEEDS):
        nets[beta, seed], error = train(beta, seed)
        rows.append((beta, error, svd.measure_sparsity(nets[beta, seed]).compression))
rows = np.array(rows)
errors, times = (np.array([rows[rows[:, 0] == beta, column].mean() for beta in BETAS]) for column in (1, 2))
luck = np.sqrt(errors.min() * (100 - errors.min()) / len(data.x_valid))  # standard error of one error, in points

# %% tags=["cover"]
fig, ax = plt.subplots(figsize=(7.2, 3.8))
ax.plot(rows[:, 2], rows[:, 1], "o", color=COLOURS["pruned"], label="one run")
ax.errorbar(
    times, errors, luck, fmt="s-", color=COLOURS["test"], linewidth=2.2, capsize=3, label="mean, ± a standard error"
)
for beta, error, time in zip(BETAS, errors, times, strict=True):
    ax.annotate(f"β = {beta:g}", (time, error), (6, -14), textcoords="offset points")
ax.axhline(errors.min() + luck, color=COLOURS["sparsity"], linestyle="--", label="best + one standard error")
ax.set(
    xscale="log",
    xlabel="compression: all weights / weights kept",
    ylabel="held-out error (%)",
    title="What sparsity costs",
)
ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if 0.7 * times.min() < t < 1.5 * times.max()]
ax.set_xticks(ticks, [str(t) for t in ticks])
ax.minorticks_off()
ax.legend(loc="upper left")
plt.show()
assert np.all(np.diff(times) > 0) or not FULL

# %% [markdown]
# The compression grows all along. The error hardly moves at first, then it climbs. So there is no *right* weight, only a price list, and a rule is needed that you fix
# **before** you look: for example, *the sparsest network whose error is within one standard error of the best.*


# %% choose tags=["blank"]
def choose(betas, errors, luck):
    """The largest KL weight whose error is at most one standard error above the smallest error."""
    good = errors <= errors.min() + luck  # blank
    return betas[good].max()


# %% tags=["check"]
check(
    "choose",
    lambda: (
        choose(BETAS, np.array([5.0, 5.5, 7.0, 8.0, 9.0]), 0.5) == 0.1
        and choose(BETAS, np.array([5.0, 5.5, 7.0, 8.0, 9.0]), 0.0) == 0.03
    ),
    "good is an array of True and False, one for each KL weight.",
    "Compare errors with errors.min() + luck.",
)

# %%
beta = choose(BETAS, errors, luck)
print(
    f"standard error {luck:.1f} points; chosen: KL weight {beta:g}, {times[beta == BETAS][0]:.0f} times fewer weights"
)

# %% [markdown]
# On MNIST the picture is the same. Here is the [published table](../benchmarks/results/trade-off.md) of LeNet-300-100, one seed each:

# %% tags=["results"]
path = pathlib.Path("..", "benchmarks", "results", "trade-off.md")
table = path.read_text(encoding="utf-8") if path.exists() else ""
for line in re.findall(r"^\| ([\d.]+) \| ([\d. ±]+) \| ([\d. ±]+) \| ([\d. ±]+) \|$", table, re.MULTILINE):
    print(f"KL weight times {line[0]:>4}: test error {line[1]} %, {line[3]} times fewer weights")

# %% [markdown]
# A tenth of the KL weight costs three quarters of the sparsity there, and it takes away two fifths of the errors. On large networks people have gone much further down: Gale, Elsen and Hooker
# (2019) tuned the KL weight, too, and did best with values far below the bound's. With few images go down as well: the bound asks each weight to be worth its price
# to *these* images.
#
# ## And the threshold?
#
# It can be chosen after training, on the held-out images, by the same rule. One network, many cuts:

# %%
net = nets[beta, 0]
curve = svd.threshold_curve(net, data, np.arange(-4, 6.5, 0.5), by_layer=False)
cut = curve.select(tolerance=luck / 100)

# %%
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(curve.thresholds, 100 * curve.error, "o-", color=COLOURS["test"], label="held-out error")
ax.plot(curve.thresholds, 100 * np.array(curve.density), "s--", color=COLOURS["train"], label="weights kept")
for t, label in ((3.0, "3, the paper's"), (cut, f"{cut:g}, chosen")):
    ax.axvline(t, color=COLOURS["ink"], linestyle=":", linewidth=1.5)
    ax.text(t, 125, label, ha="center", va="bottom", fontsize=9)
ax.set(yscale="log", xlabel="threshold on log α", ylabel="%", ylim=(1, 120))
ax.set_title("One network, cut at many places", pad=20)
ax.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# Now nothing is left to choose, and the test set may be opened:

# %%
final = svd.sparsify(net, cut)
test = 100 * svd.evaluate(final, data.x_test, data.y_test)["error"]
held_out = 100 * svd.evaluate(final, data.x_valid, data.y_valid)["error"]
left = svd.measure_sparsity(net, threshold=cut).compression
print(f"held-out error {held_out:.1f} %, test error {test:.1f} %, {left:.0f} times fewer weights")

# %% [markdown]
# ## The clinic
#
# Six runs, one sound and five that went wrong. The folded cell trains them and shuffles them; do not open it yet.

# %% jupyter={"source_hidden": true} tags=["clinic"]
scale = EPOCHS / 60
wide = svd.Dataset("padded", *(np.pad(part, ((0, 0), (0, 64))) if part.ndim == 2 else part for part in (
    data.x_train, data.y_train, data.x_test, data.y_test)), None, 10, "half of the inputs are always 0")  # fmt: skip


def dead_inputs():
    """A sound run on images with 64 more pixels that are always 0."""
    net = svd.Sequential(svd.VariationalDense(128, 100), svd.ReLU(), svd.VariationalDense(100, 10))
    lr, kl = ((2 * EPOCHS / 3, 1.0), (EPOCHS, 0.0)), ((0, 0.0), (EPOCHS / 3, 1.0))
    svd.fit(net, wide, svd.TrainConfig(EPOCHS, 50, 5e-3, lr, kl), progress=False)
    return net


patients = {
    1: nets[1.0, 0],  # sound
    2: train(1.0, epochs=max(2, round(8 * scale)), lr_schedule=((0, 1.0),))[0],  # stopped far too early
    3: train(0.0)[0],  # KL forgotten
    4: train(len(data.x_train) / 50)[0],  # KL divided by the batch, not by N
    5: dead_inputs(),
    6: nets[0.03, 0],  # KL weight much too small
}
shuffled = dict(zip("ABCDEF", np.random.default_rng(5).permutation(6) + 1, strict=True))

# %%
fig, axes = plt.subplots(2, 3, figsize=(8.6, 4.6), sharex=True, sharey=True)
edges = np.linspace(-12, 16, 57)
for ax, (letter, number) in zip(axes.flat, shuffled.items(), strict=True):
    values = np.clip(svd.log_alpha(patients[number])["dense1"].ravel(), edges[0], edges[-1])
    counts, _ = np.histogram(values, edges)
    colours = np.where(edges[:-1] < 3, COLOURS["kept"], COLOURS["pruned"])
    ax.bar(edges[:-1], 100 * counts / len(values), np.diff(edges), align="edge", color=colours)
    ax.axvline(3, color=COLOURS["test"], linestyle="--", linewidth=1.4)
    ax.set(title=f"{letter}: {np.mean(values > 3):.1%} pruned", yscale="log", ylim=(0.01, 100))
fig.supxlabel("log α of the first layer (ends hold all beyond)", fontsize=10)
fig.supylabel("% of the weights", fontsize=10)
fig.tight_layout()
plt.show()

# %% [markdown]
# What happened to each?
#
# 1. A sound run.
# 2. Stopped far too early: nothing has settled.
# 3. The KL was forgotten: weight 0.
# 4. The KL was divided by the batch size instead of the number of images.
# 5. Half of the inputs are always 0.
# 6. The KL weight is much too small (0.03), though not 0.
#
# Write the six numbers in the order of the letters, as in `"123456"`.

# %% diagnosis tags=["blank"]
diagnosis = "".join(str(number) for number in shuffled.values())  # blank

# %% tags=["check"]
check(
    "diagnosis",
    lambda: [int(number) for number in diagnosis] == [int(number) for number in shuffled.values()],
    "Without a KL nothing drives weights to the right. With far too much, hardly anything is left on the left.",
    "Inputs that are always 0 leave a heap of weights with the same log α, or infinitely far out: half of all weights.",
    "Training starts near -7. Weights that live have moved to about -3 by the end, unless the run was too short.",
)

# %% [markdown]
# What to look for: **two heaps with a valley** say that the run has settled. **One heap** at the start, near −7, says that the KL is missing; a living heap that
# is still there, although others have died, that the run was too short. **No living heap**
# says that the KL is too strong, usually by a factor of $N$ over the batch size. **A heap far beyond all others** is made of inputs that say nothing: leave them out of the
# count, or you take credit for empty pixels.
#
# ## Exercises
#
# **Exercise 1.** Choose the KL weight on 100 of the 400 held-out images, for many random hundreds. (`nets[beta, 0].predict` gives scores; `choose` does the rest, with the
# `luck` of a hundred images.) How often is the choice the same?
#
# **Exercise 2.** Correct the compression of the run with dead inputs, `patients[5]`: count only weights of inputs that vary, the first 64.
#
# **Exercise 3.** Take the *best of five seeds* at KL weight 1 on the held-out images, and compare its held-out with its test error.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. The fewer images, the larger the standard error, and the sparser the choice.
misses = {b: nets[b, 0].predict(data.x_valid).argmax(axis=1) != data.y_valid for b in BETAS}
chosen, rng = [], np.random.default_rng(3)
for _ in range(200):
    rows_ = rng.choice(len(data.x_valid), 100, replace=False)
    few = np.array([100 * misses[b][rows_].mean() for b in BETAS])
    chosen.append(choose(BETAS, few, np.sqrt(max(few.min(), 1) * (100 - few.min()) / 100)))
print({float(b): int(np.sum(np.array(chosen) == b)) for b in BETAS}, f"; with 400 images: {beta:g}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. The first 64 inputs are the digits.
alive = {name: values <= 3 for name, values in svd.log_alpha(patients[5]).items()}
total, kept = sum(mask.size for mask in alive.values()), sum(mask.sum() for mask in alive.values())
without, kept_there = total - 64 * 100, kept - alive["dense1"][64:].sum()
print(f"{total / kept:.0f} times with the empty inputs, {without / kept_there:.0f} times without")
assert total / kept > without / kept_there

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. The smallest of several numbers is too small where it was chosen.
found = [train(1.0, seed) for seed in range(5 if FULL else 2)]
best, error = min(found, key=lambda pair: pair[1])
print(
    f"best held-out error {error:.1f} %; its test error {100 * svd.evaluate(best, data.x_test, data.y_test)['error']:.1f} %"
)

# %% [markdown]
# ## In practice
#
# Write the rule down before the sweep. Sweep the KL weight over two decades, few seeds each; `svd.sweep` ([guide](../docs/guide/sweeps.md)) does it on held-out images, and
# goes on where it was stopped. Look at the histograms before you believe a sparsity. Choose the threshold last, and test once.
#
# ## Further reading
#
# - Gale, Elsen, Hooker: [The State of Sparsity in Deep Neural Networks](https://arxiv.org/abs/1902.09574), 2019: sweeps at scale.
# - Hastie, Tibshirani, Friedman: [The Elements of Statistical Learning](https://hastie.su.domains/ElemStatLearn/), section 7.10: the one-standard-error rule.
# - The [guide](../docs/guide/pruning.md) on pruning and thresholds.
