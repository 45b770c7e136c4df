# %% [markdown]
# # Why does training with huge noise not explode?
#
# **What you'll do.** Train one layer with noise that is many times larger than its weights, in three ways that compute
# the same expected loss. Measure how noisy their gradients are, and find out why one of the three learns and another does not.
#
# **What you'll learn.** What *additive parametrisation* and *local reparametrisation* are, how much variance each removes and
# from which gradient, and why one noise per example beats one noise per batch.
#
# **What you'll need.** NumPy, the chain rule, variances. It helps to know what $\alpha$ and the price of a weight are
# ([notebook 1](01_price_a_weight.ipynb)). About 30 minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests run with fewer draws
DRAWS = 400 if FULL else 100
COLOUR = {"multiplicative": COLOURS["test"], "additive": COLOURS["accent"], "local": COLOURS["train"]}


# %% tags=["helpers"]
def sums_are_right():
    """Four inputs of 2, weights N(1, 3²): sums with mean 8 and standard deviation 12, each with a noise of its own."""
    y = draw_sum(2 * np.ones((50_000, 4)), np.ones((4, 2)), 3 * np.ones((4, 2)), np.random.default_rng(0)) - 8
    return abs(y.mean()) < 0.2 and abs(y.std() - 12) < 0.2 and abs(np.corrcoef(y.T)[0, 1]) < 0.05


def drawn_once(kind):
    """Both gradients from the same noise, for five images."""
    rows, log_sigma2 = train[:5], 1 + np.log(theta**2)
    return gradients(kind, x[rows], targets[rows], theta, log_sigma2, np.random.default_rng(0))


def adam(parameters, gradient, moments, lr, step):
    """One step of Adam, in place."""
    for p, g, (m, v) in zip(parameters, gradient, moments, strict=True):
        m += 0.1 * (g - m)
        v += 0.001 * (g**2 - v)
        p -= lr * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


def noisy_nll(theta, log_sigma2, rng):
    """Mean NLL of the training images under the noise."""
    y = x[train] @ theta + np.sqrt(x[train] ** 2 @ np.exp(log_sigma2)) * rng.standard_normal((len(train), 10))
    return -np.log(np.maximum(softmax(y)[np.arange(len(train)), labels[train]], 1e-30)).mean()


# %% [markdown]
# ## The problem
#
# Sparse VD makes weights noisy on purpose: $w = \theta + \sigma\varepsilon$. A weight is removed when $\log\alpha = \log(\sigma^2/\theta^2)$ exceeds
# 3, which is noise with a standard deviation of about four and a half times the weight. To get there, training must survive in such
# noise. The earlier method that Sparse VD grew out of (Kingma, Salimans and Welling 2015) did not: it kept $\alpha \le 1$.
#
# Our subject is the smallest network that shows this: one layer of softmax regression on 8×8 digits, first trained without noise.

# %%
pixels, labels = load_digits(return_X_y=True)
used = pixels.std(axis=0) > 0  # three pixels are 0 in every image
x, targets = pixels[:, used] / 16, np.eye(10)[labels]
order = np.random.default_rng(0).permutation(len(x))
train, test = order[360:], order[:360]


def softmax(y):
    p = np.exp(y - y.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


# %%
theta = np.random.default_rng(1).normal(0, 0.1, (x.shape[1], 10))
for _ in range(300):  # plain gradient descent
    theta -= 0.5 * x[train].T @ (softmax(x[train] @ theta) - targets[train]) / len(train)
print(f"theta {theta.shape}, test error {(np.argmax(x[test] @ theta, axis=1) != labels[test]).mean():.1%}")

# %% [markdown]
# ## First trick: let the noise stand beside the mean
#
# The same random weight can be written in two ways:
#
# $$\text{multiplicative:}\quad w = \theta\,(1 + \sqrt\alpha\,\varepsilon), \qquad\qquad \text{additive:}\quad w = \theta + \sigma\,\varepsilon .$$
#
# On the left the learned numbers are $(\theta, \alpha)$, on the right $(\theta, \sigma)$. The weights have the same distribution, and so has
# the loss. But look at what the chain rule multiplies the gradient by on its way to $\theta$:
#
# $$\frac{\partial w}{\partial\theta} = 1 + \sqrt\alpha\,\varepsilon \qquad\text{against}\qquad \frac{\partial w}{\partial\theta} = 1 .$$

# %%
rng = np.random.default_rng(2)
fig, ax = plt.subplots(figsize=(7, 2.8))
log_alphas = [-4, -2, 0, 2, 4]
factors = [1 + np.exp(la / 2) * rng.standard_normal(2000) for la in log_alphas]
parts = ax.violinplot(factors, log_alphas, widths=1.2, showextrema=False)
for body in parts["bodies"]:
    body.set(facecolor=COLOUR["multiplicative"], alpha=0.5)
ax.axhline(1, color=COLOUR["additive"], linewidth=2.5, label="additive: always 1")
ax.axhline(0, color=COLOURS["ink"], linewidth=0.8)
ax.set(xlabel="log α", ylabel="∂w / ∂θ", title="Multiplicative noise also multiplies the gradient, and flips its sign")
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# **Predict.** The factor has mean 1 and variance $\alpha$, so its mean square is $1 + \alpha$. By how much, then, should the gradient's
# variance differ between the two forms at $\log\alpha = 4$?
#
# ## Second trick: sample the sum, not the terms
#
# A unit does not see its weights one by one. It sees $y_o = \sum_i x_i w_{io}$, a sum of independent Gaussians, and that is a
# Gaussian:
#
# $$y_o = \underbrace{\sum_i x_i\theta_{io}}_{\text{mean}} + \sqrt{\underbrace{\textstyle\sum_i x_i^2\sigma_{io}^2}_{\text{var}}}\;\varepsilon_o .$$
#
# So draw the sum. This is **local reparametrisation**: not one noise per weight, shared by the whole batch, but one per
# example and output. First see that nothing has changed for a single example.

# %%
one = x[train[0]]
log_sigma2 = 2 + np.log(theta**2)  # log α = 2 for every weight
sigma = np.exp(log_sigma2 / 2)
draws = 20_000 if FULL else 4_000
by_weights = np.array([one @ (theta + sigma * rng.standard_normal(theta.shape)) for _ in range(draws)])[:, 3]


# %% draw_sum tags=["blank"]
def draw_sum(x, theta, sigma, rng):
    """Outputs (B, O) for inputs x (B, I), weights (I, O): the sum drawn, not its terms."""
    mean = x @ theta
    std = np.sqrt(x**2 @ sigma**2)  # blank
    return mean + std * rng.standard_normal(mean.shape)  # blank


# %% tags=["check"]
check(
    "draw_sum",
    sums_are_right,
    "Variances of independent terms add up: x² times σ², summed over the inputs. That is a matrix product.",
    "Add the mean, and give each example and each output a noise of its own.",
    "std = np.sqrt(x**2 @ sigma**2); then mean plus std times one normal for each example and output.",
)

# %%
std = np.sqrt(one**2 @ sigma**2)[3]
by_sum = draw_sum(np.repeat(one[None], draws, axis=0), theta, sigma, rng)[:, 3]
for name, sample in (("weights drawn", by_weights), ("sum drawn", by_sum)):
    print(f"{name:14} mean {sample.mean():6.3f}, standard deviation {sample.std():.3f}")
assert abs(by_weights.mean() - by_sum.mean()) < 4 * std * np.sqrt(2 / draws)

# %%
fig, ax = plt.subplots(figsize=(7, 2.6))
edges = np.linspace(by_sum.min(), by_sum.max(), 60)
ax.hist(by_weights, edges, density=True, color=COLOUR["additive"], alpha=0.5, label="61 weights drawn,\nthen summed")
ax.hist(by_sum, edges, density=True, color=COLOUR["local"], histtype="step", linewidth=2, label="the sum drawn")
ax.set(xlabel="output of unit 3 for one image", ylabel="density", title="One distribution, two ways to draw from it")
ax.legend()
plt.show()

# %% [markdown]
# ## The gradients
#
# The loss is the mean cross-entropy of a batch, that is, the negative log likelihood (NLL) of its labels; `dy`, softmax minus target, is its gradient for the outputs. Three ways to go
# on, in six lines of chain rule. ([Notebook 4](04_derive_every_gradient.ipynb) derives those of the last way.)


# %%
def local_gradients(x, targets, theta, sigma, rng):
    """Gradients of the mean NLL for theta and log_sigma2, with sums drawn."""
    mean, std = x @ theta, np.sqrt(x**2 @ sigma**2)
    noise = rng.standard_normal(mean.shape)  # one per example and output
    dy = (softmax(mean + std * noise) - targets) / len(x)
    d_var = dy * noise / (2 * std)
    return x.T @ dy, sigma**2 * ((x**2).T @ d_var)


# %% gradients tags=["blank"]
def gradients(kind, x, targets, theta, log_sigma2, rng):
    """Gradients of the mean NLL for theta and log_sigma2, from one draw of the noise."""
    sigma = np.exp(log_sigma2 / 2)
    if kind == "local":
        return local_gradients(x, targets, theta, sigma, rng)
    noise = rng.standard_normal(theta.shape)  # one per weight, shared by the batch
    dw = x.T @ (softmax(x @ (theta + sigma * noise)) - targets) / len(x)
    factor = 1 + sigma / theta * noise  # blank
    d_theta = dw * factor if kind == "multiplicative" else dw
    return d_theta, dw * noise * sigma / 2


# %% tags=["check"]
check(
    "gradients",
    lambda: np.allclose(
        drawn_once("multiplicative")[0], drawn_once("additive")[0] + 2 / theta * drawn_once("additive")[1]
    ),
    "Only one line is missing: ∂w/∂θ in the multiplicative form, by which dw is multiplied.",
    "It is 1 + √α ε. The code adds σ noise, which in this form is θ √α ε: so √α ε is σ noise / θ, whatever the sign of θ.",
)


# %%
def variance(kind, log_alpha, rows):
    """Variance over noise of both gradients, averaged over the weights."""
    rng = np.random.default_rng(3)
    log_sigma2 = log_alpha + np.log(theta**2)
    drawn = [gradients(kind, x[rows], targets[rows], theta, log_sigma2, rng) for _ in range(DRAWS)]
    return np.var(drawn, axis=0).mean(axis=(1, 2))  # for theta, for log_sigma2


# %% [markdown]
# ## The measurement
#
# One batch of 100 images, many draws of the noise. We hold $\theta$ and give every weight the same $\alpha$, so on the right of the picture $\sigma$ is really
# huge. (Training gets to the same $\alpha$ in another way; we come to that at the end.)

# %%
log_alphas = np.arange(-8, 9)
measured = {kind: np.array([variance(kind, la, train[:100]) for la in log_alphas]) for kind in COLOUR}

# %% tags=["cover"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
for kind, values in measured.items():
    look = {"linewidth": 5, "alpha": 0.4} if kind == "multiplicative" else {"marker": "o", "markersize": 3}
    left.semilogy(log_alphas, values[:, 0], color=COLOUR[kind], label=kind, **look)
    right.semilogy(log_alphas, values[:, 1], color=COLOUR[kind], **look)
left.set(xlabel="log α", ylabel="variance of the gradient", title="for θ")
right.set(xlabel="log α", title="for log σ²")
left.legend()
fig.tight_layout()
plt.show()

# %%
print("log α   multiplicative / additive     1 + α   additive / local")
for la in (-4, 0, 4, 8):
    m, a, loc = (measured[kind][log_alphas == la, 0][0] for kind in COLOUR)
    print(f"{la:5}   {m / a:25.1f}  {1 + np.exp(la):8.1f}   {a / loc:16.1f}")

# %%
ratio = measured["multiplicative"][:, 0] / measured["additive"][:, 0]
assert np.all(np.abs(np.log(ratio / (1 + np.exp(log_alphas)))) < 0.5)
growth = measured["additive"][-1] / measured["additive"][log_alphas == 4][0]
print(f"additive, from log α = 4 to 8: variance times {growth[0]:.1f} for θ, times {growth[1]:.0f} for log σ²")
assert growth[0] < 2 < 5 < growth[1]

# %% [markdown]
# (On the right, the first two curves lie on one another: both forms have the same $\partial w/\partial\log\sigma^2$.)
#
# Your prediction, $1 + \alpha$, is nearly the whole story: at $\log\alpha = 4$ the multiplicative gradient for $\theta$ has
# over fifty times the variance of the additive one, and it grows without bound. **The additive gradient for $\theta$
# levels off.** It must: no entry of softmax minus target exceeds 1, whatever the noise does, and nothing multiplies it afterwards. The gradient for
# $\log\sigma^2$ is multiplied by $\sigma$, so it goes on growing.
#
# Where there is much noise, local reparametrisation then reduces the variance by another order of magnitude and more, for both parameters. Why so much?
#
# ## Why one noise per example is better
#
# The gradient of a batch is a mean of $B$ single gradients $g_b$. Its variance over the noise is
#
# $$\mathrm{Var}\Big[\frac1B\sum_b g_b\Big] = \frac1B\,\overline{\mathrm{Var}[g_b]} + \frac{B-1}{B}\,\overline{\mathrm{Cov}[g_b, g_{b'}]} .$$
#
# If all examples share the noise of the weights, their gradients err together and the second term stays, however
# large the batch. With noise of their own, it is zero.
#
# **Predict.** Ten times the batch: what happens to the variance with shared noise, and with noise per example?

# %%
sizes, by_size = np.array([1, 3, 10, 30, 100, 300, 1000]), {}
for kind in ("additive", "local"):
    by_size[kind] = np.array([variance(kind, 2.0, train[:size])[0] for size in sizes])

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
for kind in by_size:
    ax.loglog(sizes, by_size[kind], "o-", color=COLOUR[kind], label=kind)
ax.loglog(sizes, by_size["local"][0] / sizes, ":", color=COLOURS["ink"], label="first point / batch size")
ax.set(
    xlabel="batch size (images)", ylabel="variance of the gradient for θ", title="log α = 2: what a larger batch buys"
)
ax.legend()
plt.show()
assert by_size["additive"][-1] > 10 * by_size["local"][-1]

# %% [markdown]
# With noise per example, a batch averages noise away; with shared noise it hardly does. Could one not draw a whole weight matrix
# for each example? Yes, and count:

# %%
batch, (inputs, outputs) = 100, theta.shape
print(f"weights for each example: {batch * inputs * outputs:,} random numbers per step")
print(f"outputs only:             {batch * outputs:,}")
print(f"one LeNet-300-100 layer, 784 x 300: {batch * 784 * 300:,} against {batch * 300:,}")

# %% [markdown]
# So the trick is faster *and* quieter, which is rare. Its price is a second matrix product, for the variances.
#
# ## Does it matter in training?
#
# Adam divides each gradient by its recent size, so noise need not blow anything up; it may just drown the signal. Train
# the layer from scratch, all three ways, with the price of the weights added to the loss: $\mathrm{KL}/N$ per image, where $N$ is the number of training
# images ([notebook 0](00_pay_for_a_weight.ipynb) says why). A factor, the *KL weight*, lets it in slowly.


# %%
def kl_gradients(theta, log_sigma2):
    """Gradients of the paper's KL for theta and log_sigma2 (Molchanov et al. 2017, eq. 14)."""
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    s = theta**2 * np.exp(-log_sigma2)
    t = np.exp(-k2) * s**k3
    v = 1 / (1 + s) + 2 * k1 * k3 * np.exp(-k2) * s ** (k3 - 1) / (1 + t) ** 2
    return v * theta * np.exp(-log_sigma2), -s * v / 2


# %% [markdown]
# The second parameter is $\log\sigma^2$, but in the multiplicative form it is $\log\alpha$, and the KL depends on it alone.


# %%
def log_variance(kind, theta, second):
    """log σ² of the weights, whatever the second parameter is."""
    return second + np.log(theta**2) if kind == "multiplicative" else second


# %%
def one_epoch(kind, theta, second, moments, done, rng, steps, batch=50):
    """Train in place with Adam; `done` is the share of the training that is over."""
    kl_scale, rate = min(1.0, 3 * done) / len(train), 1e-2 * min(1.0, 2 * (1 - done))  # up to 1 / N; down to 0
    for rows in np.array_split(rng.permutation(train), len(train) // batch):
        log_sigma2 = log_variance(kind, theta, second)
        d_theta, d_second = gradients(kind, x[rows], targets[rows], theta, log_sigma2, rng)
        kl_theta, kl_second = kl_gradients(theta, log_sigma2)
        d_theta = d_theta + kl_scale * kl_theta * (kind != "multiplicative")
        adam((theta, second), (d_theta, d_second + kl_scale * kl_second), moments, rate, next(steps))


# %%
def train_layer(kind, log_sigma2_start, epochs):
    """NLL under the noise and share pruned, after each epoch; theta and log_sigma2 at the end."""
    rng, steps, history = np.random.default_rng(0), itertools.count(1), []
    theta = rng.normal(0, np.sqrt(2 / x.shape[1]), (x.shape[1], 10))
    second = log_sigma2_start - np.log(theta**2) * (kind == "multiplicative")
    moments = [(np.zeros(theta.shape), np.zeros(theta.shape)) for _ in range(2)]
    for epoch in range(epochs):
        one_epoch(kind, theta, second, moments, epoch / epochs, rng, steps)
        log_sigma2 = log_variance(kind, theta, second)
        history.append((noisy_nll(theta, log_sigma2, rng), np.mean(log_sigma2 - np.log(theta**2) > 3)))
    return np.array(history), theta, log_sigma2


# %%
epochs = 60 if FULL else 20
ended = {kind: train_layer(kind, -8.0, epochs) for kind in COLOUR}
quiet = {kind: history for kind, (history, *_) in ended.items()}
noisy = {kind: train_layer(kind, 0.0, epochs)[0] for kind in COLOUR}

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.1))
for kind, colour in COLOUR.items():
    axes[0].semilogy(1 + np.arange(epochs), noisy[kind][:, 0], color=colour)
    axes[1].plot(1 + np.arange(epochs), quiet[kind][:, 0], color=colour)
    axes[2].plot(1 + np.arange(epochs), 100 * quiet[kind][:, 1], color=colour, label=kind)
axes[0].set(xlabel="epoch", ylabel="NLL under noise (nats)", title="Start in noise (σ = 1)")
axes[1].set(xlabel="epoch", ylabel="NLL under noise (nats)", title="Start quiet")
axes[2].set(xlabel="epoch", ylabel="weights pruned (%)", title="Start quiet")
axes[2].legend(loc="center right", bbox_to_anchor=(1.0, 0.52))
fig.tight_layout()
plt.show()

# %%
print(f"{'':15} start in noise: NLL    start quiet: NLL, pruned")
for kind in COLOUR:
    print(f"{kind:15} {noisy[kind][-1, 0]:19.2f}    {quiet[kind][-1, 0]:16.2f}, {quiet[kind][-1, 1]:.0%}")
if FULL:
    assert noisy["multiplicative"][-1, 0] > 3 * noisy["additive"][-1, 0] > 3 * noisy["local"][-1, 0]
    assert quiet["local"][-1, 1] > 0.5 > 2 * quiet["multiplicative"][-1, 1]

# %% [markdown]
# Three lessons:
#
# - **Begun in noise,** the layer with local reparametrisation learns fastest and ends best, the additive one follows, and the
#   multiplicative one is still deep in its noise when the others have finished. (Given several times as many epochs, it gets out.)
# - **Begun quiet,** all three fit the data, and in the end about equally well. A large gradient variance does no harm while $\alpha$ is small, so here
#   local reparametrisation gains nothing over the additive form but speed.
# - **But only the additive forms prune.** The multiplicative one sits at a fraction of the sparsity. A weight moves to large
#   $\alpha$ most easily by letting $\theta$ go to 0 while $\sigma$ stays, and in the multiplicative form $\sigma$ shrinks with $\theta$.
#
# The last point is the other half of the answer to our title. Is the noise of a pruned weight huge at all?

# %%
_, final_theta, final_log_sigma2 = ended["local"]
final_sigma, dead = np.exp(final_log_sigma2 / 2), final_log_sigma2 - np.log(final_theta**2) > 3
print(
    f"mean σ at the start {np.exp(-4):.3f}; at the end: pruned {final_sigma[dead].mean():.3f}, kept {final_sigma[~dead].mean():.3f}"
)
print(
    f"mean |θ| at the end: pruned {np.abs(final_theta[dead]).mean():.4f}, kept {np.abs(final_theta[~dead]).mean():.2f}"
)
if FULL:
    assert final_sigma[dead].mean() < final_sigma[~dead].mean()

# %% [markdown]
# It is not. **The noise of a pruned weight is huge only beside its mean, which has gone to 0.** In absolute terms the survivors are the noisy ones. So
# training never gets to the right-hand side of our measurement with all weights at once. The two tricks keep the gradient calm where noise is large;
# most weights die with little noise.
#
# Move the noise, and see the gradient of one weight in 300 draws. (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import IntSlider


# %%
@slide(log_alpha=IntSlider(min=-8, max=8, value=2, description="log α"))
def show_one_weight(log_alpha):
    """Gradients for the weight of the largest mean."""
    at = np.unravel_index(np.argmax(np.abs(theta)), theta.shape)
    log_sigma2 = log_alpha + np.log(theta**2)
    rng, rows = np.random.default_rng(5), train[:100]
    fig, ax = plt.subplots(figsize=(7, 2.4))
    for height, kind in enumerate(COLOUR):
        draws = [gradients(kind, x[rows], targets[rows], theta, log_sigma2, rng)[0][at] for _ in range(300)]
        ax.plot(draws, height + rng.uniform(-0.2, 0.2, 300), ".", color=COLOUR[kind], alpha=0.5)
    ax.set(yticks=range(3), yticklabels=COLOUR, xlabel="gradient for θ")


# %% [markdown]
# ## The same with the package
#
# `VariationalDense` has parameters `theta` and `log_sigma2` and samples its outputs: both tricks, always. Its noise is a function of
# the step, so the same gradient can be drawn again, and others by changing the step.

# %%
import svd_numpy as svd

model = svd.Sequential(svd.VariationalDense(x.shape[1], 10), backend="numpy", dtype="float64")
model.parameters["dense1.theta"][...] = theta
model.parameters["dense1.log_sigma2"][...] = 4 + np.log(theta**2)

# %%
batch, options = (x[train[:100]], labels[train[:100]]), {"n_train": len(train), "kl_weight": 0.0}
drawn = [model.loss_and_grads(*batch, **options, step=step)[1]["dense1.theta"] for step in range(DRAWS)]
print(f"variance at log α = 4: package {np.var(drawn, axis=0).mean():.2e}", end=", ")
print(f"this notebook {measured['local'][log_alphas == 4, 0][0]:.2e}")
assert abs(np.log(np.var(drawn, axis=0).mean() / measured["local"][log_alphas == 4, 0][0])) < 0.2

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The gradients for $\theta$ in the first two forms are not two estimates of one number: one holds $\alpha$ fixed, the other $\sigma$. Write
# down how they are related, and check it in a single draw. (With $\alpha$ fixed, $\log\sigma^2 = \log\alpha + \log\theta^2$ moves with $\theta$: use the chain rule.)
#
# **Exercise 2.** Show that additive and local gradients *are* estimates of one number: average many draws of each, and compare their difference with its standard error.
#
# **Exercise 3.** Replace softmax by squared error, `dy = (x @ w - targets) / B`. Does the additive gradient still level off?
#
# **Exercise 4.** One could average the additive gradient over $K$ draws of the weights. How many draws does it take to be as quiet as one local gradient, at
# $\log\alpha = 0, 4, 8$, and what would they cost?
#
# **Exercise 5.** *Flipout* is a trick in between: one noise matrix $\varepsilon$ for the batch, but with random signs for each example,
# $y = x\theta + ((x\circ r)(\sigma\circ\varepsilon))\circ t$, where $r$ (a sign for each input) and $t$ (one for each output) are $\pm1$. The gradient for $\theta$ is still
# $x^\top d_y$. Where does its variance lie at $\log\alpha = 2$, and how does it fall with the batch size?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. σ² = α θ², so with α held, dL/dθ = ∂L/∂θ + ∂L/∂log σ² · 2 / θ. True draw by draw, with the same noise.
log_sigma2 = 2 + np.log(theta**2)
rows = train[:100]
first, _ = gradients("multiplicative", x[rows], targets[rows], theta, log_sigma2, np.random.default_rng(4))
second, d_log_sigma2 = gradients("additive", x[rows], targets[rows], theta, log_sigma2, np.random.default_rng(4))
print("largest difference:", np.abs(first - (second + d_log_sigma2 * 2 / theta)).max() < 1e-12)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Means of many draws, in units of the standard error of their difference: all within about 4.
rng, many = np.random.default_rng(6), 4000 if FULL else 1000
samples = {
    kind: np.array([gradients(kind, x[rows], targets[rows], theta, log_sigma2, rng)[0] for _ in range(many)])
    for kind in ("additive", "local")
}
difference = samples["additive"].mean(axis=0) - samples["local"].mean(axis=0)
error = np.sqrt(sum(sample.var(axis=0) for sample in samples.values()) / many)
live = error > 0  # pixels that are 0 in this whole batch have no gradient
z = difference[live] / error[live]
print(f"root mean square of difference / standard error: {np.sqrt(np.mean(z**2)):.2f} (expected: about 1)")
assert np.abs(z).max() < 5

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. No: dy grows with the noise, so the variance is proportional to σ², and only the sampling of sums helps.
for la in (0, 4, 8):
    sigma, noise = np.exp((la + np.log(theta**2)) / 2), np.random.default_rng(7).standard_normal((DRAWS, *theta.shape))
    drawn = [x[rows].T @ (x[rows] @ (theta + sigma * n) - targets[rows]) / len(rows) for n in noise]
    print(f"log α = {la}: variance {np.var(drawn, axis=0).mean():.3g}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. The variance of an average of K draws is 1/K of that of one, so K is the ratio. Each draw is a pass of its own.
for la in (0, 4, 8):
    additive, local = (measured[kind][log_alphas == la, 0][0] for kind in ("additive", "local"))
    print(f"log α = {la}: {additive / local:.0f} draws; local: two products instead of one")
log_sigma2, rng, k = 4 + np.log(theta**2), np.random.default_rng(8), 10
averages = [
    np.mean([gradients("additive", x[rows], targets[rows], theta, log_sigma2, rng)[0] for _ in range(k)], axis=0)
    for _ in range(DRAWS)
]
tenth = np.var(averages, axis=0).mean() / measured["additive"][log_alphas == 4, 0][0]
print(f"variance of an average of {k}, in units of that of one: {tenth:.2f}")
assert 0.07 < tenth < 0.14


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. The signs make the noises of two examples uncorrelated, for the mean product of their signs is 0.
def flipout(rows, rng):
    """Gradient for theta at log α = 2."""
    noise = np.exp(1) * np.abs(theta) * rng.standard_normal(theta.shape)
    r, t = (rng.choice([-1.0, 1.0], (len(rows), n)) for n in theta.shape)
    y = x[rows] @ theta + ((x[rows] * r) @ noise) * t
    return x[rows].T @ (softmax(y) - targets[rows]) / len(rows)


for size in (100, 1000):
    rng, column = np.random.default_rng(9), list(sizes).index(size)
    flipped = np.var([flipout(train[:size], rng) for _ in range(DRAWS)], axis=0).mean()
    print(f"batch {size:4}: additive {by_size['additive'][column]:.1e}, Flipout {flipped:.1e}", end=", ")
    print(f"local {by_size['local'][column]:.1e}")
    assert by_size["local"][column] < flipped < 0.3 * by_size["additive"][column]
# Near to local for a small batch, an order of magnitude below the shared noise for a large one. There it levels off, too:
# uncorrelated is not independent. Two examples still share |ε|, and softmax, not being linear, lets them feel it.

# %% [markdown]
# ## In practice
#
# Learn $\theta$ and $\log\sigma^2$, derive $\alpha$, never the other way round. Sample outputs. For convolutions, where a weight is used at many positions, sampling
# outputs ignores that their noise is shared: mean and variance of each output are right, their correlations are not, and
# everybody does it ([notebook 8](08_turn_convolution_into_matmul.ipynb)). Begin with little noise and let the KL raise it. And remember what
# was *not* shown: the variance of the minibatch itself is still there, and with squared error the noise of the additive form does grow.
#
# ## Further reading
#
# - Kingma, Salimans, Welling: [Variational Dropout and the Local Reparameterization Trick](https://arxiv.org/abs/1506.02557), 2015.
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017, section 4.1:
#   the additive form.
# - Wen and others: [Flipout](https://arxiv.org/abs/1803.04386), 2018: noise per example where sampling outputs is impossible.
