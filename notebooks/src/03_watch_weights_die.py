# %% [markdown]
# # When do weights die?
#
# **What you'll do.** Train a small network with Sparse VD, keep all its weights of every epoch, and follow them: when they die, which ones die
# first, whether any come back, and what changes when you start in another way.
#
# **What you'll learn.** To read a histogram of $\log\alpha$, to tell apart the two roads on which a weight can die, what KL warm-up does, and how much
# depends on the famous threshold of 3.
#
# **What you'll need.** NumPy, and what $\alpha$ and the KL of a weight are ([notebook 1](01_price_a_weight.ipynb)). About 30 minutes.
# To watch this run without a kernel, open [the page to play with](../docs/play.html).

# %% tags=["setup"]
# From cells.py.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter

from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs
EPOCHS = 60 if FULL else 12


# %% tags=["helpers"]
def batches(epoch, size=50):
    """Rows of the training images, shuffled anew in each epoch."""
    shuffled = np.random.default_rng([0, epoch]).permutation(train)
    return np.split(shuffled, range(size, len(shuffled), size))


def mosaic(epoch, side=6):
    """Images of the incoming weights of the first side² units, 0 where pruned, with a line between them."""
    tiles = np.where(alive[epoch], theta[epoch], 0)[:, : side**2].T.reshape(side, side, 8, 8)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return tiles.transpose(0, 2, 1, 3).reshape(9 * side, 9 * side)[:-1, :-1]


def draw_frame(epoch):
    """One frame of the moving picture: scatter, mosaic, and the error up to here."""
    fig.clear()
    (left, right), (below, share) = fig.subplots(2, 2, height_ratios=(3, 1.3))
    draw_scatter(left, epoch)
    left.set_ylabel("log α")
    right.imshow(mosaic(epoch), cmap="RdBu_r", vmin=-0.8, vmax=0.8)
    right.set(title=f"{1 - alive[epoch].mean():.1%} pruned")
    right.set_axis_off()
    below.plot(1 + np.arange(epoch + 1), 100 * errors[: epoch + 1], color=COLOURS["test"])
    below.set(xlim=(0, EPOCHS), ylim=(0, 12), xlabel="epoch", ylabel="test error (%)")
    share.plot(1 + np.arange(epoch + 1), 100 * alive[: epoch + 1].mean(axis=(1, 2)), color=COLOURS["sparsity"])
    share.set(xlim=(0, EPOCHS), ylim=(0, 103), xlabel="epoch", ylabel="weights left (%)")


# %% [markdown]
# ## The run to watch
#
# `micro` is Sparse VD in one file of plain NumPy: [200 lines](../svd_numpy/micro/sparse_vd.py) that you can read from top to bottom.
# ([Notebook 4](04_derive_every_gradient.ipynb) derives its gradients.) We take its functions and write the loop ourselves, because we want to look
# inside. The network has 64 inputs, 100 hidden units and 10 outputs: 7,400 weights, each with a mean `theta` and a `log_sigma2`.

# %%
name, x, labels = micro.load_problem()
order = np.random.default_rng(0).permutation(len(x))
train, test = order[360:], order[:360]
print(f"{name}: {len(train)} training and {len(test)} test images")


# %%
def train_and_record(net, kl_weight):
    """Train in place; after each epoch, copy theta and log_sigma2 of both layers and measure the pruned network."""
    moments, step, snapshots, errors = (micro.zeros_like(net), micro.zeros_like(net)), 0, [], []
    for epoch in range(EPOCHS):
        rate = 5e-3 * min(1.0, 3 * (1 - epoch / EPOCHS))
        for rows in batches(epoch):
            _, gradients = micro.loss_and_gradients(net, x[rows], labels[rows], len(train), kl_weight(epoch), 0, step)
            micro.adam_step(net, gradients, moments, rate, step)
            step += 1
        snapshots.append([(layer["theta"].copy(), layer["log_sigma2"].copy()) for layer in net])
        errors.append((micro.predict(net, x[test]).argmax(axis=1) != labels[test]).mean())
    return snapshots, np.array(errors)


# %%
def warm_up(epoch):
    """KL weight: from 0 to 1 in a straight line over the first third, then 1."""
    return min(1.0, epoch / (EPOCHS / 3))


# %%
net = micro.make_net(64, 100, 10)
snapshots, errors = train_and_record(net, warm_up)
theta = np.array([epoch[0][0] for epoch in snapshots])  # (epochs, 64, 100): the first layer
log_sigma2 = np.array([epoch[0][1] for epoch in snapshots])

# %% alive tags=["blank"]
log_alpha = log_sigma2 - np.log(theta**2)  # blank
alive = log_alpha <= 3  # blank

# %% tags=["check"]
check(
    "alive",
    lambda: np.array_equal(alive[-1], micro.kept(net[0])) and np.array_equal(log_alpha <= 3, alive),
    "log α is log σ² minus the logarithm of the squared mean, for all epochs at once.",
    "A weight lives while log α is at most 3. Arrays can be compared with a number.",
)

# %%
print(f"first layer: {alive[-1].sum()} of {alive[-1].size} weights left, test error {errors[-1]:.1%}")

# %% [markdown]
# **Predict.** Draw the histogram of $\log\alpha$ after training, on paper. One hump or two? Where is the threshold, 3: in a hump, or in a valley?

# %%
when = [int(share * (EPOCHS - 1)) for share in (0.05, 0.2, 0.5, 1.0)]
fig, axes = plt.subplots(4, 1, figsize=(7, 5.6), sharex=True, sharey=True)
edges = np.linspace(-14, 16, 121)
for ax, epoch in zip(axes, when, strict=True):
    counts, _ = np.histogram(np.clip(log_alpha[epoch], edges[0], edges[-1]), edges)
    colours = np.where(edges[:-1] < 3, COLOURS["kept"], COLOURS["pruned"])
    ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
    ax.axvline(3, color=COLOURS["test"], linestyle="--", linewidth=1.2)
    ax.set(yscale="log", ylabel="weights")
    ax.set_title(
        f"epoch {epoch + 1}: KL weight {warm_up(epoch):.2f}, {1 - alive[epoch].mean():.1%} pruned", fontsize=10
    )
axes[-1].set_xlabel("log α (grey: pruned)")
fig.tight_layout()
plt.show()

# %% [markdown]
# (Count axes are logarithmic; the first and the last bar hold everything beyond −14 and 16.) After a few epochs there are two humps. On the left, at high
# precision, sit the weights that the data hold; the others crowd around the line and beyond it. The valley between the two lies near 0, so the
# threshold is *not* in it: it cuts through the flank of the dead heap. In the end a thin living tail is left, spread from precise to nearly
# dead, and more than nine tenths of the weights lie to the right of the line, many of them far out.
#
# ## Two roads to death
#
# $\log\alpha = \log\sigma^2 - \log\theta^2$ can grow in two ways: the noise grows, or the mean shrinks. Draw every weight as a point of $|\theta|$ and
# $\log\alpha$. Weights of equal noise lie on a slanted line; the first road leads straight up, the second along a slanted line to the left.


# %%
def draw_scatter(ax, epoch):
    """Every first-layer weight as a point."""
    magnitude, la = np.abs(theta[epoch]).ravel(), log_alpha[epoch].ravel()
    colour = np.where(la <= 3, COLOURS["kept"], COLOURS["pruned"])
    for level in (-8, -4, 0):  # lines of equal noise
        ax.plot([1e-5, 3], level - 2 * np.log([1e-5, 3]), color=COLOURS["pruned"], linewidth=1)
        ax.text(2.4, level - 2 * np.log(2.4) + 0.2, f"log σ² = {level}", fontsize=6.5, ha="right", color=COLOURS["ink"])
    ax.scatter(magnitude, la, s=2, c=colour, linewidths=0)
    ax.axhline(3, color=COLOURS["test"], linestyle="--", linewidth=1.2)
    ax.set(xscale="log", xlim=(1e-4, 3), ylim=(-10, 16), xlabel="|θ|", title=f"epoch {epoch + 1}")


fig, axes = plt.subplots(1, 4, figsize=(8.6, 3.2), sharey=True)
for ax, epoch in zip(axes, when, strict=True):
    draw_scatter(ax, epoch)
axes[0].set_ylabel("log α")
fig.tight_layout()
plt.show()

# %%
start, end = snapshots[0][0], snapshots[-1][0]
noise_road, mean_road = end[1] - start[1], np.log(start[0] ** 2) - np.log(end[0] ** 2)
print("mean rise of log α from the first to the last epoch, by growing noise and by a shrinking mean:")
for group, members in (("survivors", alive[-1]), ("the dead", ~alive[-1])):
    print(f"{group:9}: {noise_road[members].mean():5.1f} by noise, {mean_road[members].mean():5.1f} by the mean")
if FULL:
    assert mean_road[~alive[-1]].mean() > 5 * noise_road[~alive[-1]].mean() and mean_road[alive[-1]].mean() < 0

# %% [markdown]
# The two groups take different roads. **The dead die by their means.** Their points slide to the left along a line of equal
# noise. The KL pulls at $\theta$ with a force of up to $0.765/\sigma$ ([notebook 1](01_price_a_weight.ipynb)), which is strong where the noise is small,
# and if nothing in the data pulls back, $\theta$ collapses long before the noise has grown much. **The survivors grow noisy**: their means even get larger, and their
# points move up to the precision that the data need, and no further.
#
# The same as a moving picture, with the weights of the first 36 hidden units and the error below (the folded cell at the top draws its frames):

# %%
folder = pathlib.Path("pictures") if FULL else pathlib.Path(tempfile.mkdtemp())
fig = plt.figure(figsize=(6.4, 4.8), dpi=80, layout="constrained")
frames = [*range(0, EPOCHS, 2 if FULL else 6), *[EPOCHS - 1] * (6 if FULL else 1)]  # rest on the last one
FuncAnimation(fig, draw_frame, frames).save(folder / "weights_die.gif", PillowWriter(fps=5), dpi=80)
plt.close(fig)

# %% [markdown]
# ![Weights of a small network dying during training while its error stays](pictures/weights_die.gif)
#
# Watch the error while nine out of ten weights go: but for some jitter, it does not move.
#
# ## Who dies first?
#
# **Predict.** Each first-layer weight belongs to a pixel. Which pixels of an 8×8 digit lose their weights first, which last?
#
# Call the first epoch after which a weight stays above the threshold for good its epoch of death.

# %%
last_alive = np.where(alive.any(axis=0), EPOCHS - np.argmax(alive[::-1], axis=0), 0)  # (64, 100), 0: never alive

# %% tags=["cover"]
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.6, 2.9))
panels = (
    (left, x[train].mean(axis=0), "mean image", "pixel value"),
    (middle, np.median(last_alive, axis=1), "median epoch of death", "epoch"),
    (right, alive[-1].sum(axis=1), "weights left at the end", "of 100"),
)
for ax, values, title, unit in panels:
    fig.colorbar(ax.imshow(values.reshape(8, 8), cmap="cividis"), ax=ax, shrink=0.75, label=unit)
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(visible=False)
fig.tight_layout()
plt.show()

# %%
border = x[train].std(axis=0) < 0.05
print(f"{border.sum()} pixels that hardly vary: median epoch of death {np.median(last_alive[border]):.0f}")
print(f"the other {(~border).sum()}: {np.median(last_alive[~border]):.0f}")
assert np.median(last_alive[border]) < np.median(last_alive[~border])

# %% [markdown]
# Pixels that are nearly always empty say nothing, so nothing holds their weights: they go first, in almost all units. A pixel
# in the thick of the digits keeps some weights to the end, but never many of its 100.
#
# ## Do the dead return?
#
# Nothing here removes a weight during training. "Dead" says only that $\log\alpha$ is above 3; the gradient still flows.
#
# **Predict.** How many of the 6,400 weights are ever revived, that is, pruned after one epoch and kept after a later one?

# %% revived tags=["blank"]
revived = (alive[1:] & ~alive[:-1]).any(axis=0)  # blank

# %% tags=["check"]
check(
    "revived",
    lambda: (
        revived.shape == (64, 100) and np.array_equal(revived, (np.diff(alive.astype(int), axis=0) == 1).any(axis=0))
    ),
    "alive[1:] is each epoch but the first, alive[:-1] the epoch before it.",
    "A weight returns where it is alive and was not the epoch before: alive[1:] & ~alive[:-1]. At any epoch: .any(axis=0).",
)

# %%
late = (alive[EPOCHS // 2 + 1 :] & ~alive[EPOCHS // 2 : -1]).any(axis=0)
print(f"revived at some time: {revived.sum()} of {revived.size}; in the second half: {late.sum()}")
came_back = alive[-1] & revived
print(f"alive at the end: {came_back.sum()} of the {revived.sum()} revived, among {alive[-1].sum()} survivors in all")
if FULL:
    assert revived.mean() > 0.1 and came_back.any()

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
rng = np.random.default_rng(1)
groups = (
    ("survivors", alive.all(axis=0), COLOURS["kept"], 6),
    ("die and stay dead", ~alive[-1] & ~revived & alive[EPOCHS // 6], COLOURS["ink"], 6),
    ("revived", revived, COLOURS["accent"], 5),
)
for label, members, colour, count in groups:
    rows, columns = np.nonzero(members)
    for n, i in enumerate(rng.permutation(len(rows))[:count]):
        track = log_alpha[:, rows[i], columns[i]]
        ax.plot(1 + np.arange(EPOCHS), track, color=colour, linewidth=1.1, alpha=0.8, label=label if n == 0 else None)
ax.axhline(3, color=COLOURS["test"], linestyle="--", linewidth=1.2, label="threshold")
ax.set(xlabel="epoch", ylabel="log α", ylim=(-9, 17), title="Some lives")
ax.legend(ncols=2)
plt.show()

# %% [markdown]
# Revivals are common, and most of them mean little: a mean that jitters around zero takes $\log\alpha$ back and forth across the
# line. But some of the survivors had once been "dead". Would a method that removes weights for good have lost something? Delete them and see:

# %%
without = [{key: array.copy() for key, array in layer.items()} for layer in net]
without[0]["theta"][came_back] = 0
lost = (micro.predict(without, x[test]).argmax(axis=1) != labels[test]).mean() - errors[-1]
print(f"log α of the revived survivors: {log_alpha[-1][came_back].min():.1f} to {log_alpha[-1][came_back].max():.1f}")
print(f"without them, {360 * lost:+.0f} of 360 images more are wrong")
if FULL:
    assert abs(360 * lost) <= 2 and log_alpha[-1][came_back].min() > 0.5

# %% [markdown]
# Hardly anything: those that come back stay just below the line, where a weight costs next to nothing and is worth next to nothing. So weights far beyond the
# threshold may be removed while training goes on, which makes it faster ([notebook 11](11_train_faster.ipynb)). Those near the threshold need time to settle first.
#
# ## Warm-up, no warm-up, or a trained start
#
# The KL weight rose from 0 during the first third. What if it is 1 from the first step? Or if the network has been trained without KL
# before? Three seeds each; the third way gets a third more epochs. For so many runs we take the package, which computes the same with
# compiled code, in a fraction of the time.

# %%
import svd_numpy as svd

images, numbers = x.astype(np.float32), labels.astype(np.int64)
small = svd.Dataset(name, images[train], numbers[train], images[test], numbers[test], None, 10, "scikit-learn")


# %%
def run(seed, kl_schedule, start=None, epochs=EPOCHS):
    """Train as above, from fresh weights or from `start`; return the network, and sparsity and error by epoch."""
    layers = svd.VariationalDense(64, 100), svd.ReLU(), svd.VariationalDense(100, 10)
    model, lr = start or svd.Sequential(*layers, seed=seed), ((2 * epochs / 3, 1.0), (epochs, 0.0))
    config = svd.TrainConfig(epochs, 50, 5e-3, lr, kl_schedule, seed=seed, eval_every=1)
    history = svd.fit(model, small, config, progress=False)
    return model, [1 - 1 / r["compression"] for r in history], [r["test_error"] for r in history]


# %%
runs = {"KL from the start": [], "KL warm-up": [], "trained first": []}
for seed in range(3 if FULL else 1):
    runs["KL from the start"].append(run(seed, ((0, 1.0),)))
    runs["KL warm-up"].append(run(seed, ((0, 0.0), (EPOCHS / 3, 1.0))))
    trained, *_ = run(seed, ((0, 0.0),), epochs=EPOCHS // 3)
    runs["trained first"].append(run(seed, ((0, 1.0),), trained))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3))
for colour, (label, results) in zip(("test", "train", "sparsity"), runs.items(), strict=True):
    for n, (_, sparsity, error) in enumerate(results):
        style = {"color": COLOURS[colour], "linewidth": 1.1, "label": label if n == 0 else None}
        left.plot(1 + np.arange(EPOCHS), 100 * np.array(sparsity), **style)
        right.plot(1 + np.arange(EPOCHS), 100 * np.array(error), **style)
left.set(xlabel="epoch", ylabel="pruned (%)", title="Sparsity", ylim=(0, 101))
right.set(xlabel="epoch", ylabel="test error (%)", title="Error of the pruned network", ylim=(0, 12))
left.legend(loc="lower right")
fig.tight_layout()
plt.show()
for label, results in runs.items():
    shares, final = [sparsity[-1] for _, sparsity, _ in results], [error[-1] for _, _, error in results]
    print(
        f"{label:18} pruned {np.mean(shares):.1%}, test error {np.mean(final):.1%} ({min(final):.1%} to {max(final):.1%})"
    )

# %% [markdown]
# With the full KL from the first step, some nine tenths of the weights die within ten epochs, before the network has
# learned which ones it needs, and meanwhile it errs more often. In the end it is a little sparser than with warm-up, and so is the network with a
# trained start. Do not read anything into the errors at the end: one percentage point is four images, and the ranges of three seeds overlap. What is
# clear is the beginning: with warm-up or a trained start, the network never passes through a phase of being both sparse and bad. In
# deeper networks that phase may never end: a layer whose weights are all gone passes nothing on, so hardly any gradient can bring it back.
#
# ## How much depends on the 3?
#
# $\log\alpha > 3$ is a convention. Prune the trained network at other thresholds and look.


# %%
def error_at(threshold, rows=test):
    """Error on these images and share pruned of the network at the end of the run, at another threshold."""
    hidden, pruned = x[rows], 0
    for number, layer in enumerate(net):
        keep = layer["log_sigma2"] - np.log(layer["theta"] ** 2) <= threshold
        pruned += (~keep).sum()
        hidden = (np.maximum(hidden, 0) if number else hidden) @ (layer["theta"] * keep) + layer["bias"]
    return (hidden.argmax(axis=1) != labels[rows]).mean(), pruned / 7400


# %%
thresholds = np.arange(-6, 8.5, 0.5)
sweep = np.array([error_at(t) for t in thresholds])

# %%
fig, ax = plt.subplots(figsize=(7, 3))
ax.plot(thresholds, 100 * sweep[:, 0], color=COLOURS["test"], label="test error")
ax.plot(thresholds, 100 * (1 - sweep[:, 1]), color=COLOURS["sparsity"], label="weights left")
ax.axvline(3, color=COLOURS["ink"], linestyle="--", linewidth=1)
ax.set(yscale="log", xlabel="threshold on log α", ylabel="%", title="One network, pruned at many thresholds")
ax.legend()
plt.show()
for t in (0, 1, 3, 6):
    error, share = sweep[thresholds == t][0]
    print(f"threshold {t}: {error:.1%} error, {1 - share:.1%} of the weights left")

# %% [markdown]
# From 0 upwards the error hardly changes; below −1 it climbs steeply. So 3 is a cautious choice here: a threshold of 0 or 1 would have removed
# another part of what is left, at no cost. Between the thresholds 0
# and 6 lies a tenth of all weights, and the network does not notice whether they are there. But note the way to find out: a sweep on data that
# you do not report.
#
# Move through the epochs yourself. (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import IntSlider


@slide(epoch=IntSlider(min=1, max=EPOCHS, value=EPOCHS // 2))
def show_epoch(epoch):
    """Scatter and mosaic of one epoch."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    draw_scatter(left, epoch - 1)
    right.imshow(mosaic(epoch - 1), cmap="RdBu_r", vmin=-0.8, vmax=0.8)
    right.set_axis_off()


# %% [markdown]
# ## The same with the package
#
# A larger network, LeNet-300-100 with 266,200 weights, on MNIST where it is installed, otherwise on the small digits, enlarged. The schedule is a list of knots.

# %%
from svd_numpy.plots import log_alpha_histogram

data = svd.load("auto") if FULL else svd.load("digits")
hidden = svd.VariationalDense(784, 300), svd.ReLU(), svd.VariationalDense(300, 100), svd.ReLU()
model = svd.Sequential(*hidden, svd.VariationalDense(100, 10))
epochs = 5 if not FULL else 12 if data.name == "mnist" else 100
kl, lr = ((0, 0.0), (epochs / 2, 1.0)), ((epochs / 2, 1.0), (epochs, 0.0))
config = svd.TrainConfig(epochs=epochs, kl_schedule=kl, lr_schedule=lr)
history = svd.fit(model, data, config, progress=False)

# %%
end = history[-1]
print(f"{data.name}, {epochs} epochs: test error {end['test_error']:.2%}, 1 weight in {end['compression']:.0f} left")
log_alpha_histogram({name: np.clip(values, -12, 20) for name, values in svd.log_alpha(model).items()}, 3.0)

# %% [markdown]
# The last bar holds everything from 20 up. Weights whose mean has become exactly 0 are there, too: their $\log\alpha$ is infinite, and nothing went wrong,
# since no formula of the package divides by a weight or takes its logarithm.
#
# ## Exercises
#
# **Exercise 1.** Whole hidden units can die, too: when all their incoming or all their outgoing weights are gone. Count the living ones. (`snapshots[-1][1]` holds `theta` and
# `log_sigma2` of the second layer.)
#
# **Exercise 2.** When is the network safe to prune? Find the first epoch after which the error of the pruned network stays within one percentage point of the last.
#
# **Exercise 3.** Raise the final KL weight to 5 and watch sparsity and error; `run` takes the knots of the KL weight. What is no longer true of the objective then
# ([notebook 0](00_pay_for_a_weight.ipynb))?
#
# **Exercise 4.** Choose a threshold for the first network as one should: the lowest that costs no more than half a percentage point on one half of the test images, compared with a
# threshold of 3. Report its error on the other half. (`error_at` takes the rows of the images.)
#
# **Exercise 5.** Suppose you had cut for good, after epoch $k$, what was above the threshold. What share of the weights that live in the end would you have lost, for $k$ = 5, 10, 20,
# 30?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. A unit lives if something comes in and something goes out.
outgoing = snapshots[-1][1][1] - np.log(snapshots[-1][1][0] ** 2) <= 3
living = alive[-1].any(axis=0) & outgoing.any(axis=1)
print(f"{living.sum()} of 100 hidden units live")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Search backwards for the last epoch that is further off.
far = np.nonzero(np.abs(errors - errors[-1]) > 0.01)[0]
print(f"from epoch {far[-1] + 2 if len(far) else 1} on")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. Sparser, and worse. It is no longer the evidence lower bound: a KL weight other than 1 is a tempered objective.
_, sparsity, error = run(0, ((0, 0.0), (EPOCHS / 3, 5.0)))
print(f"KL weight 5: {sparsity[-1]:.1%} pruned, test error {error[-1]:.1%}")
if FULL:
    assert sparsity[-1] > runs["KL warm-up"][0][1][-1] and error[-1] > runs["KL warm-up"][0][2][-1]

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. Half of the images choose, the other half report. With 180 images, one error is more than half a percentage point.
choose, report = test[:180], test[180:]
allowed = error_at(3.0, choose)[0] + 0.005
chosen = min(t for t in thresholds if error_at(t, choose)[0] <= allowed)
for t in (3.0, chosen):
    (error, share), own = error_at(t, report), error_at(t, choose)[0]
    print(f"threshold {t:4}: error {error:.1%} ({own:.1%} where it was chosen), {1 - share:.1%} of the weights left")
assert chosen <= 3.0

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. The survivors of the last epoch that were "dead" after epoch k.
for k in (5, 10, 20, 30):
    if k <= EPOCHS:
        print(f"cut after epoch {k:2}: {(alive[-1] & ~alive[k - 1]).sum() / alive[-1].sum():.0%} of the survivors lost")
# Others might have taken their places, but those that the data would choose in the end are not all known early.

# %% [markdown]
# ## In practice
#
# Look at the histogram of $\log\alpha$ before you trust a sparsity. Warm the KL up, or start from a trained network. Choose the
# threshold on data that you do not report. Read sparsity only when the learning rate has come down: until then, noise is still growing. And do not
# call a weight at the threshold dead before the end.
#
# ## Further reading
#
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017.
# - Gale, Elsen, Hooker: [The State of Sparsity in Deep Neural Networks](https://arxiv.org/abs/1902.09574), 2019: the same method at scale, beside simpler ones.
# - Sønderby and others: [Ladder Variational Autoencoders](https://arxiv.org/abs/1602.02282), 2016: KL warm-up.
