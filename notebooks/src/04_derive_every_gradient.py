# %% [markdown]
# # Can you do it without autograd?
#
# **What you'll do.** Write the backward pass of a Sparse VD network by hand, line by line, while a scoreboard turns green. Then hunt seven bugs
# that look right, and find out which test catches which.
#
# **What you'll learn.** The gradient through sampled noise, the gradient of the KL without a logarithm of a weight, how to check gradients
# to fifteen digits, and why a gradient check is not enough.
#
# **What you'll need.** NumPy, the chain rule for matrices, and local reparametrisation ([notebook 2](02_tame_the_noise.ipynb)). About 60
# minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from scipy.special import dawsn

from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests run with fewer draws
K1, K2, K3 = 0.63576, 1.87320, 1.48695


# %% tags=["helpers"]
class Steps(dict):
    """The steps of the chain by name; `nudge` maps names to small numbers that are added there."""

    def __init__(self, nudge):
        super().__init__()
        self.nudge = nudge or {}

    def keep(self, name, number):
        """Write a step down and hand it on."""
        self[name] = number + self.nudge.get(name, 0)
        return self[name]


def scoreboard():
    """Which derivatives are right, wrong, or not there yet."""
    marks = []
    for name in NAMES:
        if d.get(name, ...) is ...:
            marks.append(f"⬜ to do  {name}")
        elif d[name].shape != TRUTH[name].shape:
            marks.append(f"🟥 wrong  {name}: shape {d[name].shape}, expected {TRUTH[name].shape}")
        else:
            error = np.abs(d[name] - TRUTH[name]).max()
            marks.append(f"{'🟩 right' if error < 1e-12 else '🟥 wrong'}  {name}: largest error {error:.0e}")
    print("\n".join(marks))


def right(*names):
    """Whether all these derivatives are right; prints those that are not."""
    fits = {name: np.shape(d[name]) in ((), TRUTH[name].shape) for name in names}  # a blank has the shape ()
    wrong = [name for name in names if not (fits[name] and np.abs(d[name] - TRUTH[name]).max() < 1e-12)]
    if wrong:
        print("not right yet:", *(f"{name}{np.shape(d[name])}" for name in wrong))
    return not wrong


# %% [markdown]
# ## The chain
#
# Two noisy layers with a ReLU between, softmax, and the negative log likelihood (NLL). Blue runs forward, orange is what we want: the derivative
# of the loss for everything on the way. Note the forks: `x` and `h` are used twice, for the mean and for the variance.

# %%
places = {"x": (0, 0), "h": (4.2, 0), "NLL": (9.6, 0)}
for n, left in ((1, 0), (2, 4.2)):
    places |= {f"mean{n}": (left + 1.4, 0.6), f"var{n}": (left + 1.0, -0.6), f"std{n}": (left + 2.0, -0.6)}
    places[f"y{n}"] = (left + 3.0, 0)
places["y2"] = (8.2, 0)
steps = [("x", "mean1"), ("x", "var1"), ("var1", "std1"), ("mean1", "y1"), ("std1", "y1"), ("y1", "h")]
steps += [("h", "mean2"), ("h", "var2"), ("var2", "std2"), ("mean2", "y2"), ("std2", "y2"), ("y2", "NLL")]
fig, ax = plt.subplots(figsize=(8.6, 2.5))
for start, end in steps:
    for here, there, bend, colour in ((start, end, 0.25, "train"), (end, start, 0.25, "test")):
        arrow = {"arrowstyle": "->", "color": COLOURS[colour], "linewidth": 1.6, "shrinkA": 15, "shrinkB": 15}
        arrow["connectionstyle"] = f"arc3,rad={-bend}"
        ax.annotate("", places[there], places[here], arrowprops=arrow)
for box, place in places.items():
    frame = {"boxstyle": "round,pad=0.3", "facecolor": "#DCE9F5", "edgecolor": COLOURS["train"]}
    label = "y2: logits" if box == "y2" else box
    ax.text(*place, label, ha="center", va="center", fontsize=10, bbox=frame)
ax.set(xlim=(-0.4, 10), ylim=(-1, 1))
ax.set_axis_off()
plt.show()

# %% [markdown]
# The numbers are few, so that you can look at each: 6 examples, 5 inputs, 4 hidden units, 3 classes. The noise is drawn once and then held:
# **with fixed noise the loss is an ordinary function**, and that is what we differentiate.

# %%
rng = np.random.default_rng(0)
x, classes = rng.normal(size=(6, 5)), np.array([0, 1, 2, 0, 1, 2])
x[:, 4] = 0  # an input that is always 0: remember it
parameters = {}
for n, (inputs, outputs) in enumerate(((5, 4), (4, 3)), start=1):
    parameters[f"theta{n}"] = rng.normal(size=(inputs, outputs))
    parameters[f"log_sigma2_{n}"] = rng.normal(-2, 1, (inputs, outputs))
    parameters[f"bias{n}"] = rng.normal(size=outputs)
noise1, noise2 = micro.normals(0, 0, 0, 6, 4), micro.normals(0, 2, 0, 6, 3)


# %%
def forward(p, x, nudge=None):
    """The mean NLL and all steps on the way; `nudge` maps names of steps to small numbers that are added there."""
    value = Steps(nudge)
    h = value.keep("x", x)
    for n, noise in ((1, noise1), (2, noise2)):
        mean = value.keep(f"mean{n}", h @ p[f"theta{n}"] + p[f"bias{n}"])
        var = value.keep(f"var{n}", h**2 @ np.exp(p[f"log_sigma2_{n}"]))
        y = value.keep(f"y{n}", mean + value.keep(f"std{n}", np.sqrt(var)) * noise)
        h = value.keep("h", y * (y.real > 0)) if n == 1 else y
    log_p = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
    return -log_p[np.arange(6), classes].mean(), value


# %%
loss, value = forward(parameters, x)
print(f"NLL {loss:.6f} nats; shapes: " + ", ".join(f"{name} {array.shape}" for name, array in value.items()))

# %% [markdown]
# ## A judge that can be trusted
#
# To check a derivative one usually takes a difference: $(L(w + h) - L(w - h)) / 2h$. There is a better way for functions such as ours. Take
# an *imaginary* step: $L(w + ih) = L(w) + ih\,L'(w) - \tfrac12h^2L''(w) - \dots$. The term with $h^2$ is real, so
#
# $$L'(w) = \frac{\operatorname{Im} L(w + ih)}{h} + O(h^2) .$$
#
# **Predict.** Three ways: one-sided differences, central differences, imaginary steps. Which $h$ is best for each, and how many digits does it give?


# %%
def loss_at(shift, dtype=complex):
    """The loss with one weight moved."""
    moved = parameters["theta1"].astype(dtype)
    moved[0, 1] += shift
    return forward({**parameters, "theta1": moved}, x)[0]


# %%
steps = 10.0 ** np.arange(-20, 0)
exact = float(loss_at(1e-30j, np.clongdouble).imag / 1e-30)  # in longer numbers than those that are judged
ways = {
    "one-sided": np.array([(loss_at(h) - loss_at(0)).real / h for h in steps]),
    "central": np.array([(loss_at(h) - loss_at(-h)).real / 2 / h for h in steps]),
    "imaginary": np.array([loss_at(1j * h).imag / h for h in steps]),
}

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
for colour, (way, derivative) in zip(("test", "train", "sparsity"), ways.items(), strict=True):
    ax.loglog(
        steps, np.maximum(np.abs(derivative / exact - 1), 1e-17), "o-", color=COLOURS[colour], markersize=3, label=way
    )
ax.set(xlabel="step h", ylabel="relative error", title="Differences lose digits, imaginary steps do not")
ax.legend()
plt.show()
for way, derivative in ways.items():
    relative = np.maximum(np.abs(derivative / exact - 1), 1e-16)
    print(f"{way:10} best relative error {relative.min():.0e}, at h = {steps[relative.argmin()]:.0e}")

# %% [markdown]
# A difference subtracts two nearly equal numbers: small steps lose digits to rounding, large ones to curvature, and the best compromise
# leaves half of them, or two thirds. The imaginary step subtracts nothing. So here is a judge for **every** step of the chain.


# %%
def judge(name):
    """The derivative of the loss for the step or parameter `name`, entry by entry, by imaginary steps."""
    array = parameters[name] if name in parameters else value[name]
    result = np.empty(array.shape)
    for entry in np.ndindex(array.shape):
        step = np.zeros(array.shape, complex)
        step[entry] = 1e-30j
        changed = {**parameters, name: array + step} if name in parameters else parameters
        loss, _ = forward(changed, x, None if name in parameters else {name: step})
        result[entry] = loss.imag / 1e-30
    return result


# %%
NAMES = ["y2", "mean2", "std2", "var2", "theta2", "log_sigma2_2", "bias2", "h"]
NAMES += ["y1", "mean1", "std1", "var1", "theta1", "log_sigma2_1", "bias1", "x"]
TRUTH = {name: judge(name) for name in NAMES}
d = {}  # our derivatives: d["theta1"] is that of the loss for theta1


scoreboard()

# %% [markdown]
# **Now it is your turn.** Each line that ends with "your line" lacks its right-hand side. Write it, run the cell, run the check. Eight lines take you
# through the second layer and the ReLU; the first layer is the same again.

# %% [markdown]
# ## From the loss to the logits
#
# With $p$ the softmax of the logits, $-\log p_c = -y_c + \log\sum_k e^{y_k}$. Its derivative for $y_k$ is $p_k$, less 1 for the true class. The mean over
# the batch adds the factor $1/B$.

# %%
logits = value["y2"]
p = np.exp(logits - logits.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)
one_hot = np.eye(3)[classes]  # 1 for the true class

# %% y2 tags=["blank"]
d["y2"] = (p - one_hot) / len(x)  # blank

# %% tags=["check"]
check("y2", lambda: right("y2"), "p minus 1 for the true class: one_hot.", "And the mean over the batch: / len(x).")

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.2), sharey=True)
for b, ax in enumerate(axes):
    ax.bar(range(3), p[b], color=COLOURS["train"], label="p", width=0.35)
    ax.bar(np.arange(3) + 0.35, len(x) * d["y2"][b], color=COLOURS["test"], width=0.35, label="B · d_logits")
    ax.axhline(0, color=COLOURS["ink"], linewidth=0.8)
    ax.set(title=f"example {b}, true class {classes[b]}", xticks=range(3), xlabel="class")
axes[0].legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# Each example pushes its true class up and the others down, by what is missing. The orange bars of one example sum to 0.
#
# ## Through the noise
#
# $y = \text{mean} + \text{std}\cdot\text{noise}$ and $\text{std} = \sqrt{\text{var}}$. Noise is a constant now, like any input:
#
# $$d_\text{mean} = d_y, \qquad d_\text{std} = d_y\cdot\text{noise}, \qquad d_\text{var} = \frac{d_\text{std}}{2\,\text{std}} .$$

# %% noise tags=["blank"]
d["mean2"] = d["y2"]
d["std2"] = d["y2"] * noise2  # blank
d["var2"] = d["std2"] / (2 * value["std2"])  # blank

# %% tags=["check"]
check(
    "noise",
    lambda: right("mean2", "std2", "var2"),
    "The noise of the second layer is noise2; the standard deviation of the run is value['std2'].",
    "d_std = d_y * noise, and d_var = d_std / (2 std): the derivative of a square root.",
)

# %%
scoreboard()

# %% [markdown]
# ## Into the weights
#
# $\text{mean} = h\,\theta + b$ and $\text{var} = h^2\sigma^2$ are two matrix products with the same rule: **input transposed times what comes back.** The bias is in the
# mean only. And $\sigma^2 = e^{\log\sigma^2}$, so the last factor is $\sigma^2$ itself:
#
# $$d_\theta = h^\top d_\text{mean}, \qquad d_b = \sum_\text{batch} d_\text{mean}, \qquad d_{\log\sigma^2} = \big((h^2)^\top d_\text{var}\big)\cdot\sigma^2 .$$

# %% weights tags=["blank"]
h, sigma2 = value["h"], np.exp(parameters["log_sigma2_2"])
d["theta2"] = h.T @ d["mean2"]  # blank
d["bias2"] = d["mean2"].sum(axis=0)  # blank
d["log_sigma2_2"] = ((h**2).T @ d["var2"]) * sigma2  # blank

# %% tags=["check"]
check(
    "weights",
    lambda: right("theta2", "bias2", "log_sigma2_2"),
    "Input transposed times what comes back: h.T @ d['mean2'] has the shape of theta2.",
    "The variance has h**2 for its input. Do not forget the last factor, sigma2.",
)

# %% [markdown]
# ## Back to the input
#
# $h$ is used twice, once as it is and once squared. Two uses, two terms:
#
# $$d_h = d_\text{mean}\,\theta^\top + 2h\cdot\big(d_\text{var}\,(\sigma^2)^\top\big) .$$

# %% input tags=["blank"]
d["h"] = d["mean2"] @ parameters["theta2"].T + 2 * h * (d["var2"] @ sigma2.T)  # blank

# %% tags=["check"]
check(
    "input",
    lambda: right("h"),
    "Both terms are products with the transpose of what went forward: parameters['theta2'].T and sigma2.T.",
    "The derivative of h² is 2 h: it multiplies the second product, entry by entry.",
)

# %%
scoreboard()

# %% [markdown]
# The upper half is green. The second half holds nothing new: a ReLU, which lets the derivative pass where its input was positive, and the same
# lines again.

# %% first layer tags=["blank"]
d["y1"] = d["h"] * (value["y1"] > 0)  # blank
sigma2 = np.exp(parameters["log_sigma2_1"])
d["mean1"] = d["y1"]
d["std1"] = d["y1"] * noise1  # blank
d["var1"] = d["std1"] / (2 * value["std1"])  # blank
d["theta1"] = x.T @ d["mean1"]  # blank
d["bias1"] = d["mean1"].sum(axis=0)  # blank
d["log_sigma2_1"] = ((x**2).T @ d["var1"]) * sigma2  # blank
d["x"] = d["mean1"] @ parameters["theta1"].T + 2 * x * (d["var1"] @ sigma2.T)  # blank

# %% tags=["check"]
check(
    "first layer",
    lambda: right("y1", "mean1", "std1", "var1", "theta1", "bias1", "log_sigma2_1", "x"),
    "The ReLU: d['h'] where value['y1'] > 0, and 0 elsewhere.",
    "Then your lines again, with 1 for 2 and x for h.",
)

# %%
scoreboard()
assert all(np.abs(d[name] - TRUTH[name]).max() < 1e-12 for name in NAMES)

# %% [markdown]
# All green: sixteen derivatives, to the last digits, in some twenty lines.
#
# ## The KL, without a logarithm of a weight
#
# The paper writes the KL with $\log\alpha = \log\sigma^2 - \log\theta^2$: it is $\tfrac12\log(1+\alpha^{-1}) + k_1 - k_1\,S(k_2 + k_3\log\alpha)$ with the logistic function $S$.
# At $\theta = 0$, $\log\alpha$ is infinite, and with it all that follows. So take $s = \theta^2/\sigma^2 = 1/\alpha$. Then $S(k_2 - k_3\log s) = 1/(1+t)$ with
# $t = e^{-k_2}s^{k_3}$, and $k_1 - k_1/(1+t) = k_1t/(1+t)$:
#
# $$\mathrm{KL} = \tfrac12\log(1+s) + k_1\frac{t}{1+t}, \qquad v := 2\,\frac{d\,\mathrm{KL}}{ds} = \frac{1}{1+s} + \frac{2k_1k_3\,e^{-k_2}s^{k_3-1}}{(1+t)^2}.$$
#
# The chain rule does the rest: $\partial s/\partial\theta = 2\theta/\sigma^2$ and $\partial s/\partial\log\sigma^2 = -s$, hence
#
# $$\frac{\partial\,\mathrm{KL}}{\partial\theta} = v\,\frac{\theta}{\sigma^2}, \qquad \frac{\partial\,\mathrm{KL}}{\partial\log\sigma^2} = -\tfrac12\,s\,v .$$


# %%
def kl(theta, log_sigma2):
    """KL of each weight in nats."""
    s = theta**2 * np.exp(-log_sigma2)
    t = np.exp(-K2) * s**K3
    return 0.5 * np.log1p(s) + K1 * t / (1 + t)


def judge_kl():
    """Largest error of kl_backward for theta and log_sigma2, by imaginary steps."""
    theta, log_sigma2 = parameters["theta1"], parameters["log_sigma2_1"]
    by_steps = kl(theta + 1e-30j, log_sigma2).imag / 1e-30, kl(theta, log_sigma2 + 1e-30j).imag / 1e-30
    return [np.abs(hand - step).max() for hand, step in zip(kl_backward(theta, log_sigma2), by_steps, strict=True)]


# %% kl_backward tags=["blank"]
def kl_backward(theta, log_sigma2):
    """Its derivatives for theta and log_sigma2."""
    s = theta**2 * np.exp(-log_sigma2)
    t = np.exp(-K2) * s**K3
    v = 1 / (1 + s) + 2 * K1 * K3 * np.exp(-K2) * s ** (K3 - 1) / (1 + t) ** 2  # blank
    return v * theta * np.exp(-log_sigma2), -0.5 * s * v  # blank


# %% tags=["check"]
check(
    "kl_backward",
    lambda: max(judge_kl()) < 1e-12,
    "v has the two terms of the formula above; mind the power k3 - 1 and the square of 1 + t.",
    "One over σ² is np.exp(-log_sigma2). The second derivative is -s v / 2.",
)

# %%
by_hand = kl_backward(parameters["theta1"], parameters["log_sigma2_1"])
print("largest errors, for theta and log_sigma2:", *(f"{error:.0e}" for error in judge_kl()))
assert max(judge_kl()) < 1e-12
print("at theta = 0:", kl(np.zeros(1), np.zeros(1)), *kl_backward(np.zeros(1), np.zeros(1)))

# %% [markdown]
# It is finite at 0, and nothing was added or clipped to make it so.
#
# **Predict.** Input 4 is 0 in every example. What is the sign of the loss's derivative for its $\log\sigma^2$? Where will its four weights go?

# %%
n_train = 6
data_part, kl_part = d["log_sigma2_1"].mean(axis=1), by_hand[1].mean(axis=1) / n_train
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.bar(np.arange(5) - 0.2, data_part, width=0.35, color=COLOURS["train"], label="NLL")
ax.bar(np.arange(5) + 0.2, kl_part, width=0.35, color=COLOURS["accent"], label="KL / N")
ax.axhline(0, color=COLOURS["ink"], linewidth=0.8)
ax.set(xlabel="input", ylabel="mean derivative for log σ²", title="Input 4 has nobody to speak for it")
ax.legend()
plt.show()
assert np.all(data_part[4] == 0) and kl_part[4] < 0

# %% [markdown]
# The data say nothing about a useless input, and the KL's derivative is negative: descent raises the noise, and nothing resists. The same holds for the
# mean, which the KL pulls to 0. Usually the mean gets there first ([notebook 3](03_watch_weights_die.ipynb)). Either way $\log\alpha$ grows until the
# weight is pruned.
#
# ## The hunt
#
# Most bugs of this method do not crash. They train a network, only not the one that was meant. Here are seven. First a correct layer, in pieces that can be swapped:


# %%
def layer(x, theta, log_sigma2, bias, noise):
    """Sampled outputs."""
    return x @ theta + bias + np.sqrt(x**2 @ np.exp(log_sigma2)) * noise


def layer_backward(x, theta, log_sigma2, bias, noise, dy):
    """Derivatives for theta, log_sigma2 and bias."""
    d_var = dy * noise / (2 * np.sqrt(x**2 @ np.exp(log_sigma2)))
    return x.T @ dy, (x**2).T @ d_var * np.exp(log_sigma2), dy.sum(axis=0)


# %%
def draw(rng, shape):
    """One noise per example and output."""
    return rng.standard_normal(shape)


CORRECT = {"layer": layer, "layer_backward": layer_backward, "draw": draw, "kl": kl, "kl_backward": kl_backward}
CORRECT["kl_scale"] = lambda n_train: 1 / n_train

# %% [markdown]
# Read each variant and find what is wrong before you look at the table.


# %%
def backward_of_c(x, theta, log_sigma2, bias, dy, d_std):
    """The backward pass that belongs to variant C."""
    d_var = d_std / (2 * np.sqrt(x**2 @ np.exp(log_sigma2) + bias))
    return x.T @ dy, (x**2).T @ d_var * np.exp(log_sigma2), (dy + d_var).sum(axis=0)


# %%
BUGS = {
    "A": {"layer_backward": lambda x, t, ls, b, n, dy: (x.T @ dy, (x**2).T @ (dy * n) * np.exp(ls), dy.sum(axis=0))},
    "B": {
        "layer": lambda x, t, ls, b, n: x @ t + b + x**2 @ np.exp(ls) * n,
        "layer_backward": lambda x, t, ls, b, n, dy: (x.T @ dy, (x**2).T @ (dy * n) * np.exp(ls), dy.sum(axis=0)),
    },
    "C": {
        "layer": lambda x, t, ls, b, n: x @ t + b + np.sqrt(x**2 @ np.exp(ls) + b) * n,
        "layer_backward": lambda x, t, ls, b, n, dy: backward_of_c(x, t, ls, b, dy, dy * n),
    },
}

# %%
BUGS |= {
    "D": {"draw": lambda rng, shape: np.broadcast_to(rng.standard_normal(shape[1]), shape)},
    "E": {
        "kl": lambda theta, log_sigma2: kl(log_sigma2, theta),
        "kl_backward": lambda theta, log_sigma2: kl_backward(log_sigma2, theta)[::-1],
    },
    "F": {
        "kl_backward": lambda theta, log_sigma2: (kl_backward(theta, log_sigma2)[0], -kl_backward(theta, log_sigma2)[1])
    },
    "G": {"kl_scale": lambda n_train: 1.0},
}

# %% [markdown]
# And five tests, each a few lines: do the derivatives belong to the function? Do mean and variance of the outputs agree with those
# of sampled weights? Are two equal examples independent? Is the KL the integral of [notebook 1](01_price_a_weight.ipynb)? Does its share per
# example halve when there is twice as much data?
#
# **Predict.** The gradient check is the most famous of these tests. How many of the seven bugs does it catch?

# %%
PARTS = parameters["theta1"], parameters["log_sigma2_1"], np.abs(parameters["bias1"])


def gradient_check(code):
    """Derivatives by hand against imaginary steps, of layer and KL, in random directions."""
    rng = np.random.default_rng(1)
    dy, way = rng.normal(size=(6, 4)), [rng.normal(size=p.shape) for p in PARTS]
    moved = [p + 1e-30j * w for p, w in zip(PARTS, way, strict=True)]
    stepped = (dy * code["layer"](x, *moved, noise1)).sum().imag + code["kl"](*moved[:2]).sum().imag
    pieces = [*code["layer_backward"](x, *PARTS, noise1, dy)], [*code["kl_backward"](*PARTS[:2])]
    by_hand = sum((g * w).sum() for part in pieces for g, w in zip(part, way, strict=False))
    return abs(stepped / 1e-30 - by_hand) < 1e-9


# %%
def moments_check(code):
    """Mean and variance of outputs against those of weights drawn one by one."""
    theta, log_sigma2, bias = PARTS
    draws = 20_000 if FULL else 4_000
    rows = np.repeat(x[:1], draws, axis=0)
    y = code["layer"](rows, *PARTS, np.random.default_rng(2).standard_normal((draws, 4)))
    w = theta + np.exp(log_sigma2 / 2) * np.random.default_rng(3).standard_normal((draws, 5, 4))
    truth = x[0] @ w + bias
    spread = np.abs(np.log(y.var(axis=0) / truth.var(axis=0)))
    return np.all(np.abs(y.mean(axis=0) - truth.mean(axis=0)) < 6 * truth.std(axis=0) / np.sqrt(draws)) and np.all(
        spread < 0.15
    )


# %%
def independence_check(code):
    """Two copies of one example must not get the same output."""
    y = code["layer"](np.repeat(x[:1], 2, axis=0), *PARTS, code["draw"](np.random.default_rng(4), (2, 4)))
    return not np.allclose(y[0], y[1])


# %%
def integral_check(code):
    """KL against the integral of Dawson's function, at log α = -4, 0, 4, to the accuracy of the fit."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    log_sigma2 = np.array([-4.0, 0.0, 4.0])
    upper = np.exp(-log_sigma2 / 2)[:, None] / np.sqrt(2)
    truth = (upper * weights * dawsn(upper * (nodes + 1) / 2)).sum(axis=1)
    return np.allclose(code["kl"](np.ones(3), log_sigma2), truth, atol=0.0095)


# %%
def scale_check(code):
    """Twice the data, half the KL for each example."""
    return np.isclose(code["kl_scale"](12), code["kl_scale"](6) / 2)


# %%
TESTS = [gradient_check, moments_check, independence_check, integral_check, scale_check]
caught = np.array([[not test({**CORRECT, **bug}) for test in TESTS] for bug in [{}, *BUGS.values()]])
assert not caught[0].any()  # the correct layer passes every test
assert caught[1:].any(axis=1).all()  # and no bug passes all of them

# %% tags=["cover"]
fig, ax = plt.subplots(figsize=(7, 3.8))
ax.imshow(caught, cmap=ListedColormap([COLOURS["dead"], COLOURS["test"]]), aspect="auto")
names = [test.__name__.replace("_check", "") for test in TESTS]
ax.set(
    xticks=range(5),
    xticklabels=names,
    yticks=range(8),
    yticklabels=["correct", *BUGS],
    title="Orange: this test catches this bug",
)
ax.grid(visible=False)
ax.tick_params(length=0)
for row, column in zip(*np.nonzero(caught), strict=True):
    ax.text(column, row, "caught", ha="center", va="center", color="white", fontsize=9)
plt.show()
print(f"caught by the gradient check: {caught[1:, 0].sum()} of {len(BUGS)}")
assert caught[1:, 0].sum() == 2

# %% [markdown]
# - **A** forgot $1/(2\,\text{std})$, a plain slip of the backward pass.
# - **B** scales noise by the variance instead of its root. Forward and backward agree, so the derivatives are right: *of the wrong function*.
# - **C** adds the bias to the variance, forward and backward. Our test has positive biases; with negative ones there would be NaN in some networks and not
#   in others.
# - **D** gives the whole batch one noise. Every single output is right. Notebook 2 shows what it costs.
# - **E** passes $(\log\sigma^2, \theta)$ where $(\theta, \log\sigma^2)$ is expected. Shapes agree, derivatives agree, the price is nonsense.
# - **F** has the sign of one KL derivative wrong: precision is rewarded.
# - **G** forgets to divide the KL by the number of examples: 600 or 60,000 times too strong, and everything is pruned.
#
# The gradient check catches two, A and F, both slips of the pen. It cannot catch a wrong *model*, because it only compares a function with itself. Each of the other tests
# compares it with something from outside: another way to sample, an integral, a law of scale.
#
# ## The same with the package
#
# Its noise is that of `micro.normals`, which we used, so the package must give our sixteen derivatives, digit by digit.

# %%
import svd_numpy as svd

layers = svd.VariationalDense(5, 4), svd.ReLU(), svd.VariationalDense(4, 3)
model = svd.Sequential(*layers, backend="numpy", dtype="float64")
names = {"theta": "theta{}", "log_sigma2": "log_sigma2_{}", "bias": "bias{}"}
for key, array in model.parameters.items():
    array[...] = parameters[names[key.split(".")[1]].format(key[5])]  # "dense1.theta" -> "theta1"

# %%
package_loss, gradients = model.loss_and_grads(x, classes, n_train=6, kl_weight=0.0)
print(f"loss {package_loss:.12f}, ours {loss:.12f}")
for key, gradient in gradients.items():
    ours = d[names[key.split(".")[1]].format(key[5])]
    assert np.allclose(gradient, ours, atol=1e-12), key
print(svd.gradcheck(model, x, classes))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Put a `tanh` in place of the ReLU. Which line of the backward pass changes, and how?
#
# **Exercise 2.** Many programs clip $\log\alpha$ to $[-8, 8]$ before they compute the variance as $e^{\log\alpha}\theta^2$. What is the derivative for $\theta$ of that
# variance outside the clip, and what was the additive parametrisation for?
#
# **Exercise 3.** Where an example's inputs are all 0, std is 0, and the code divides by 0 to get $d_\text{var}$. Show that the derivative for $\log\sigma^2$ is 0 all the
# same, and mend the code.
#
# **Exercise 4.** Write `kl_backward` for the *exact* KL of [notebook 1](01_price_a_weight.ipynb), $2\int_0^x D(t)\,dt$ with $x = |\theta|/(\sigma\sqrt2)$, and let imaginary
# steps judge it. (`dawsn` is $D$, its slope is $1 - 2xD(x)$, and it takes complex numbers.) Does $\theta = 0$ need a case of its own?
#
# **Exercise 5.** An eighth bug passes all five tests: `draw` makes a fresh generator from the same seed at every call, so every step has the same noise. What
# could a network do that it should not? Write the test that catches it.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. Only the line of the ReLU: d_y1 = d_h * (1 - h²), since tanh' = 1 - tanh².
y = value["y1"]
print(np.abs(np.tanh(y + 1e-30j).imag / 1e-30 - (1 - np.tanh(y) ** 2)).max() < 1e-15)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Outside the clip var = e^{±8} θ² depends on θ (derivative 2 e^{±8} θ) and no longer on log σ². The noise is multiplicative there: θ
# gets the gradient noise that notebook 2 measures, and log σ² gets no gradient at all. Only a change of θ can bring the weight back inside.
theta, log_sigma2 = np.array([0.01 + 1e-30j]), np.array([2.0])
clipped = np.exp(np.clip((log_sigma2 - np.log(theta**2)).real, -8, 8)) * theta**2
print(f"d var / d theta: {clipped.imag[0] / 1e-30:.1f} with the clip (expected {2 * np.exp(8) * 0.01:.1f}), 0 without")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. The factor x² is 0 there, whatever d_var is; so any finite number will do in its place.
silent = x.copy()
silent[2] = 0
std = np.sqrt(silent**2 @ np.exp(parameters["log_sigma2_1"]))
d_var = d["y1"] * noise1 / np.maximum(2 * std, 1e-15)
print("finite:", np.isfinite((silent**2).T @ d_var).all())


# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. D is odd, so x D(x) and D(x) sign(θ) need no |θ| and no case for 0, where both derivatives are 0.
def exact_kl(theta, log_sigma2):
    """The integral by Gauss-Legendre quadrature; takes complex numbers."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = (theta * np.exp(-log_sigma2 / 2) / np.sqrt(2))[..., None]
    return (x * weights * dawsn(x * (nodes + 1) / 2)).sum(axis=-1)


def exact_kl_backward(theta, log_sigma2):
    """Its derivatives for theta and log_sigma2."""
    sigma = np.exp(log_sigma2 / 2)
    x = theta / sigma / np.sqrt(2)
    return np.sqrt(2) / sigma * dawsn(x), -x * dawsn(x)


theta, log_sigma2 = parameters["theta1"], parameters["log_sigma2_1"]
by_steps = exact_kl(theta + 1e-30j, log_sigma2).imag / 1e-30, exact_kl(theta, log_sigma2 + 1e-30j).imag / 1e-30
for hand, step, fit in zip(exact_kl_backward(theta, log_sigma2), by_steps, kl_backward(theta, log_sigma2), strict=True):
    print(f"error {np.abs(hand - step).max():.0e}; the fit is off by {np.abs(hand - fit).max():.3f}")
    assert np.allclose(hand, step, atol=1e-10)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. It could learn the noise by heart: with noise that never changes, the loss is an ordinary function of the
# weights, and large σ can be compensated. Tests hold only the promises that they name: examples, and now steps.
eighth = {**CORRECT, "draw": lambda rng, shape: np.random.default_rng(0).standard_normal(shape)}


def steps_check(code):
    """Two steps must not have the same noise."""
    rng = np.random.default_rng(5)
    return not np.allclose(code["draw"](rng, (2, 4)), code["draw"](rng, (2, 4)))


print("passes the five:", all(test(eighth) for test in TESTS), "- passes the sixth:", steps_check(eighth))
assert all(test(eighth) for test in TESTS) and not steps_check(eighth) and steps_check(CORRECT)

# %% [markdown]
# ## In practice
#
# Use autograd where you have it; derive by hand where speed or understanding is the point. Check in float64, with fixed noise, at a point where no two
# numbers are equal by accident: many slips are invisible where all biases are 0. Use imaginary steps if your code takes complex numbers, central differences
# if not. And test against something that is not your own code.
#
# ## Further reading
#
# - `svd_numpy/micro/sparse_vd.py`, functions [`backward` and `kl_divergence`](../svd_numpy/micro/sparse_vd.py): this notebook in forty lines.
# - Martins, Sturdza, Alonso: [The Complex-Step Derivative Approximation](https://doi.org/10.1145/838250.838251), 2003.
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017.
