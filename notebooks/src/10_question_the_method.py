# %% [markdown]
# # Is this Bayesian, and when should you not use it?
#
# **What you'll do.** Put the claims made for Sparse VD to the test: give it labels that mean nothing, look for the posterior that it is said to
# approximate, let plain magnitude pruning compete, and ask the network about images unlike any that it was trained on.
#
# **What you'll learn.** What the objective does to one weight, in a formula that fits on a line; why "the posterior" does not exist; which
# alternative is a proper one; and where the method is not worth its price.
#
# **What you'll need.** The price of a weight ([notebook 1](01_price_a_weight.ipynb)); it helps to have seen weights die
# ([notebook 3](03_watch_weights_die.ipynb)). About 45 minutes.

# %% tags=["setup"]
# From cells.py.

# %% tags=["results"]
import json
from math import erfc, log

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import rotate

import svd_numpy as svd
from svd_numpy import micro
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs


# %% tags=["helpers", "results"]
def committed(name):
    """Figures that a benchmark of this repository has left, or nothing where only the notebook is at hand."""
    path = pathlib.Path("..", "benchmarks", "results", name)
    return json.loads(path.read_text())["runs" if name != "break_even.json" else "rows"] if path.exists() else {}


def state(net, x, labels):
    """Accuracy of the pruned network, weights left, its NLL, KL per image."""
    logits, kl = micro.predict(net, x), sum(micro.kl_divergence(la["theta"], la["log_sigma2"])[0] for la in net)
    left = sum(micro.kept(layer).sum() for layer in net)
    return np.mean(logits.argmax(axis=1) == labels), left, micro.cross_entropy(logits, labels)[0], kl / len(x)


def share_kept(net):
    """Share of the weights of a network of `micro` that is kept."""
    return sum(micro.kept(layer).sum() for layer in net) / sum(layer["theta"].size for layer in net)


# %% [markdown]
# ## Labels that mean nothing
#
# A large network can learn even random labels by heart (Zhang and others 2017). Molchanov, Ashukha and Vetrov (2017, section 5)
# let Sparse VD try. So do we, on a small scale: 500 digits, a network 64-100-10, labels either true or random. Without KL (`kl_weight` 0) and with hardly any noise,
# a network of `micro` is an ordinary one.
#
# **Predict.** Which of the four networks reach 90 % on their own training images? How many weights does each Sparse VD keep?

# %%
name, pixels, digits = micro.load_problem()
rng = np.random.default_rng(0)
few = rng.permutation(len(pixels))[:500]
x, truth, dice = pixels[few], digits[few], rng.integers(0, 10, 500)
EPOCHS = 100 if FULL else 10


# %%
def train(net, x, labels, kl_weight, epochs=EPOCHS, batch=50):
    """Train in place; return what `state` says after each epoch: right, weights left, NLL, KL per image."""
    moments, step, history = (micro.zeros_like(net), micro.zeros_like(net)), 0, []
    for epoch in range(epochs):
        weight, rate = kl_weight * min(1, 3 * epoch / epochs), 5e-3 * min(1, 3 * (1 - epoch / epochs))
        for rows in np.array_split(np.random.default_rng([0, epoch]).permutation(len(x)), len(x) // batch):
            _, gradients = micro.loss_and_gradients(net, x[rows], labels[rows], len(x), weight, 0, step)
            micro.adam_step(net, gradients, moments, rate, step)
            step += 1
        history.append(state(net, x, labels))
    return np.array(history)


# %%
cases = {"plain, true labels": (truth, 0.0), "plain, random labels": (dice, 0.0)}
cases |= {"Sparse VD, true labels": (truth, 1.0), "Sparse VD, random labels": (dice, 1.0)}
nets = {case: micro.make_net(64, 100, 10) for case in cases}
by_heart = {case: train(nets[case], x, *how) for case, how in cases.items()}

# %% tags=["cover"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
for case, history in by_heart.items():
    look = {"color": COLOURS["test" if "random" in case else "train"], "linestyle": "--" if "plain" in case else "-"}
    left.plot(1 + np.arange(EPOCHS), 100 * history[:, 0], label=case, **look)
    right.plot(1 + np.arange(EPOCHS), np.maximum(history[:, 1], 1), **look)
left.axhline(10, color=COLOURS["ink"], linestyle=":", linewidth=1)
left.set(xlabel="epoch", ylabel="right on training images (%)", title="By heart, or not", ylim=(0, 103))
right.set(xlabel="epoch", ylabel="weights left", yscale="log", title="Of 7,400 weights")
fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
fig.tight_layout(rect=(0, 0.14, 1, 1))
plt.show()

# %% [markdown]
# What does each network pay? The objective is the mean NLL *under the noise*, plus KL/N. A plain network has no noise, and the price of a weight without noise
# is infinite. So give it the noise that suits it best: hold its means and train its $\log\sigma^2$ alone.


# %%
def fit_noise(net, labels, steps=2000 if FULL else 50):
    """A copy of a network whose log_sigma2 is trained for the objective, and nothing else."""
    net = [{key: array.copy() for key, array in layer.items()} for layer in net]
    moments = micro.zeros_like(net), micro.zeros_like(net)
    for step in range(steps):
        rows = np.random.default_rng([1, step]).permutation(len(x))[:50]
        _, gradients = micro.loss_and_gradients(net, x[rows], labels[rows], len(x), 1.0, 1, step)
        for gradient in gradients:
            gradient["theta"][:], gradient["bias"][:] = 0, 0
        micro.adam_step(net, gradients, moments, 2e-2 * min(1, 2 * (1 - step / steps)), step)
    return net


# %%
def objective(net, labels, draws=50 if FULL else 3):
    """Mean NLL under the noise, and KL per image."""
    nll = [micro.cross_entropy(micro.forward(net, x, 2, draw)[0], labels)[0] for draw in range(draws)]
    return np.mean(nll), sum(micro.kl_divergence(layer["theta"], layer["log_sigma2"])[0] for layer in net) / len(x)


# %%
paid = {}
print(f"{'nats per image at the end':26}   NLL + KL/N = objective   weights left")
for case, history in by_heart.items():
    net = fit_noise(nets[case], cases[case][0]) if "plain" in case else nets[case]
    nll, kl = objective(net, cases[case][0])
    paid[case] = nll + kl
    print(f"{case:26} {nll:5.2f}   {kl:5.2f}   {nll + kl:9.2f}   {history[-1, 1]:12.0f}")
print(f"{'empty network':26} {log(10):5.2f}   {0:5.2f}   {log(10):9.2f}   {0:12}")

# %%
if FULL:
    final = {case: history[-1] for case, history in by_heart.items()}
    assert final["plain, random labels"][0] > 0.9 > 0.3 > final["Sparse VD, random labels"][0]
    assert final["Sparse VD, random labels"][1] < 0.01 * 7400 < final["Sparse VD, true labels"][1]
    assert final["Sparse VD, true labels"][0] > 0.9 and paid["plain, random labels"] > 2 * log(10)

# %% [markdown]
# The plain network learns nonsense by heart just as readily. Sparse VD gets over nine tenths right where there is something to learn, and **empties itself
# where there is not**. An empty network pays $\log 10 = 2.30$ nats per image and nothing for weights. The network that has memorised
# the random labels pays several times that, even with the noise that suits it best: it needs thousands of precise weights.
#
# The full-size experiment of this repository ([table](../benchmarks/results/random-labels.md)):

# %% tags=["results"]
table = committed("random-labels.json")
for case, run in table.items():
    share = f"{run['kept']:,} of {run['weights']:,} weights left" if run["weights"] else "nothing pruned"
    print(f"{case:40} {run['train_accuracy']:.1%} right on training images, {share}")
if table:
    assert table["mnist-lenet-300-100-width1-dropout"]["train_accuracy"] < 0.12
    assert table["mnist-lenet-300-100-width4-dropout"]["train_accuracy"] > 0.7
    assert table["mnist-lenet-300-100-width4-variational"]["kept"] == 0

# %% [markdown]
# In the network of normal width ordinary dropout learns nothing either: its noise gets in the way. The network four times as wide decides. With dropout it
# memorises most of the random labels; with Sparse VD it empties itself.
#
# It looks like Occam's razor, as in *Bayesian model selection*. Look closer.
#
# ## What the objective does to one weight
#
# Let the data know about a weight what a measurement knows: the estimate $z$, with standard error 1, so that
# $\log L(w) = -\tfrac12(w-z)^2$ up to a constant. Sparse VD maximises $\mathbb E_q\log L - \beta\,\mathrm{KL}$ over $q = \mathcal N(\theta, \sigma^2)$, $\beta$ being the KL weight. For a given
# signal-to-noise $s = \theta^2/\sigma^2$ the best mean is $\theta = z\,\frac{s}{1+s}$, and the gain over having no weight is
#
# $$G(s) = \frac{z^2}{2}\,\frac{s}{1+s} - \beta\,\mathrm{KL}(s), \qquad G'(s) = 0 \iff z^2 = \beta\,(1+s)^2\,v(s), \quad v = 2\,\mathrm{KL}'(s).$$
#
# At $s = 0$, $v$ is 1: **below $|z| = \sqrt\beta$ nothing is worth having.** At $\beta = 1$ a weight is kept if its estimate lies a little more than *one* standard error
# from 0.


# %% needed_z tags=["blank"]
def needed_z(s, prior, beta=1.0):
    """The estimate z, in standard errors, for which s is the optimum."""
    if prior == "ard":
        return np.sqrt(beta * (1 + s))
    t = np.exp(-micro.K2) * s**micro.K3
    v = 1 / (1 + s) + 2 * micro.K1 * micro.K3 * np.exp(-micro.K2) * s ** (micro.K3 - 1) / (1 + t) ** 2
    return (1 + s) * np.sqrt(beta * v)  # blank


# %% tags=["check"]
check(
    "needed_z",
    lambda: (
        np.isclose(needed_z(1e-9, "log_uniform", 4.0), 2, atol=1e-3)
        and np.isclose(needed_z(np.exp(-3.0), "log_uniform"), 1.06, atol=0.01)
    ),
    "Take the root of the condition G'(s) = 0 above.",
    "z² is beta times (1 + s)² times v.",
)

# %%
s = np.exp(np.linspace(-14, 4.5, 2000))
limit = needed_z(np.exp(-3.0), "log_uniform")  # where log α = 3
print(f"kept at KL weight 1: |z| > {limit:.3f}; pure noise gets there in {erfc(limit / 2**0.5):.0%} of all cases")
rules = {"Sparse VD": limit, "AIC": 2**0.5, "a 5 % test": 1.96, "BIC, 60,000 images": log(60_000) ** 0.5}
for rule, z in rules.items():
    print(f"{rule:20} keeps a weight if |z| > {z:.2f}")
assert 1 < limit < 1.1 and np.all(np.diff(needed_z(s, "log_uniform")) > 0)

# %%
fig, ax = plt.subplots(figsize=(7, 3.6))
for label, prior, beta, colour, dash in (
    ("log-uniform, KL weight 1", "log_uniform", 1, "train", "-"),
    ("log-uniform, KL weight 5", "log_uniform", 5, "sparsity", "-"),
    ("ARD, KL weight 1: z − 1/z", "ard", 1, "accent", "--"),
):
    z = needed_z(s, prior, beta)
    ax.plot([0, z[0], *z], [0, 0, *z * s / (1 + s)], dash, color=COLOURS[colour], label=label)
ax.plot([0, 3.32, 3.32, 5], [0, 0, 3.32, 5], ":", color=COLOURS["test"], label="kept or cut whole, at BIC's threshold")
ax.plot([0, 5], [0, 5], color=COLOURS["pruned"], linewidth=1, label="the data alone")
ax.set(xlabel="estimate z (standard errors from 0)", ylabel="θ", xlim=(0, 5), ylim=(-0.1, 5))
ax.set_title("What is left of an estimate")
ax.legend(loc="upper left", fontsize=8.5)
plt.show()

# %% [markdown]
# So the objective is a **penalised likelihood**: small estimates go to 0, large ones are hardly shrunk. The bar is low, lower than AIC's, and it
# does not rise with the data, as that of Bayesian model selection does (BIC, for one).
#
# **Predict.** One layer, 30 inputs that are pure noise, 10 classes drawn at random. What share of the 300 weights will Sparse VD keep? And with a hidden
# layer in between?

# %%
noise_inputs, long = rng.normal(size=(500, 30)), 400 if FULL else 20
shallow, deep = micro.make_net(30, 10), micro.make_net(30, 50, 10)
train(shallow, noise_inputs, dice, 1.0, long)
train(deep, noise_inputs, dice, 1.0, long // 2)
for label, net in (("one layer", shallow), ("two layers", deep)):
    print(f"{label}: {share_kept(net):.0%} kept")
if FULL:
    assert 0.2 < micro.kept(shallow[0]).mean() < 0.4 and micro.kept(deep[0]).mean() < 0.1

# %% [markdown]
# A single layer keeps a good part of its weights on **nothing at all**, near the share that the formula gives. So it is not the
# prior that recognises nonsense. Depth helps: in two layers each weight is of use only together with others, and those are noisy.
#
# ## Looking for the posterior
#
# Bayes' rule says posterior = likelihood × prior / evidence. With $p(w)\propto 1/|w|$ the evidence of our one weight is
#
# $$\int \frac{L(w)}{|w|}\,dw = \int_{-\infty}^{\infty} \big(L(e^u) + L(-e^u)\big)\,du, \qquad u = \log|w| .$$
#
# For $u\to-\infty$ the integrand tends to $2L(0)$, not to 0: a plateau that never ends. The likelihood tames large weights; nothing tames small ones. The integral is
# infinite, and **there is no posterior** (Hron, Matthews and Ghahramani 2018). Cut the prior off at a
# smallest weight, then, and see what exact Bayes says.


# %%
def share_near_zero(z, decades, near=0.01):
    """Exact posterior probability of |w| < near, for a log-uniform prior from 10^-decades up."""
    u = np.linspace(np.log(near), np.log(z + 12), 4000)
    away = np.exp(-0.5 * (np.exp(u) - z) ** 2) + np.exp(-0.5 * (np.exp(u) + z) ** 2)
    plateau = 2 * np.exp(-0.5 * z**2) * (np.log(near) + decades * np.log(10))
    return plateau / (plateau + np.trapezoid(away, u))


# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3))
u = np.linspace(-12, 3, 600)
for z, colour in ((1, "accent"), (2, "train"), (3, "sparsity")):
    left.plot(u, np.exp(-0.5 * (np.exp(u) - z) ** 2) + np.exp(-0.5 * (np.exp(u) + z) ** 2), color=COLOURS[colour])
    left.text(-11.8, 2 * np.exp(-0.5 * z**2) + 0.04, f"z = {z}", color=COLOURS[colour])
left.annotate("for ever", (-12.4, 0.6), (-8.5, 0.6), arrowprops={"arrowstyle": "->"}, va="center")
left.set(xlabel="log |w|", ylabel="density, up to a factor", title="Likelihood × prior", ylim=(0, 1.6))
grid = np.linspace(0, 12, 241)
for decades, colour in ((4, "accent"), (16, "train"), (308, "ink")):
    label = f"prior from $10^{{-{decades}}}$ up"
    right.plot(grid, [100 * share_near_zero(z, decades) for z in grid], color=COLOURS[colour], label=label)
right.axvline(limit, color=COLOURS["test"], linestyle="--", label="Sparse VD keeps beyond")
right.set(xlabel="estimate z (standard errors from 0)", ylabel="P(|w| < 0.01)  (%)", title="What exact Bayes says")
right.legend(fontsize=8.5, loc="center right")
fig.tight_layout()
plt.show()

# %%
for z in (1, 2, 3, 5):
    shares = ", ".join(f"{share_near_zero(z, decades):.0%} ({decades} decades)" for decades in (4, 16, 308))
    print(f"z = {z}: probability of a weight next to 0: {shares}")
assert share_near_zero(3, 308) > 0.9 and share_near_zero(3, 4) < 0.3

# %% [markdown]
# If the prior reaches down to the smallest double-precision number, a weight three standard errors from 0 is next to 0 with a probability above 90 %. If it ends at $10^{-4}$, it is most
# likely not. Move the end further down and *every* weight is next to 0, whatever the data say. Sparse VD's answer does not move, so it **cannot** approximate
# that posterior. What follows:
#
# - The KL is one only up to a constant that is infinite. Differences between two networks $q$ are sound (the constant cancels); the objective as a *bound on the
#   evidence*, to compare architectures or priors, means nothing.
# - The sparsity is a property of the penalty above. It works; it just is not Bayes' rule.
#
# Hron and others make a second point, about $\theta$ and $\sigma$ as parameters: while the noise is small, the objective has a minimum at $\theta \approx 0$ as well
# as one near the estimate. Look, for an estimate of $z = 3$:

# %%
means = np.linspace(-0.5, 4, 901)
fig, ax = plt.subplots(figsize=(7, 3))
valleys = {}
for log_sigma2, colour in ((-6, "test"), (-3, "accent"), (0, "train")):
    price = [micro.kl_divergence(np.array([m]), np.array([float(log_sigma2)]))[0] for m in means]
    loss = 0.5 * ((means - 3) ** 2 + np.exp(log_sigma2)) + np.array(price)
    ax.plot(means, loss, color=COLOURS[colour], label=f"log σ² = {log_sigma2}")
    valleys[log_sigma2] = means[1:-1][(loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])]
ax.set(xlabel="θ", ylabel="−E log L + KL (nats)", title="With little noise, there is a second minimum at 0")
ax.legend()
plt.show()
print({level: places.round(2).tolist() for level, places in valleys.items()})
assert len(valleys[-6]) == 2 and len(valleys[0]) == 1

# %% [markdown]
# A weight that starts at 0 with little noise stays there, although the data ask for 3. This is how weights died in
# [notebook 3](03_watch_weights_die.ipynb), and nothing in Bayes' rule asks for it. Only growing noise opens the way out.
#
# ## A prior that exists
#
# With ARD each weight has a Gaussian prior whose variance is set to its optimum (Kharitonov, Molchanov and Vetrov 2018). In our formula $v = 1/(1+s)$, so the
# optimum is $s = z^2 - 1$ and $\theta = z - 1/z$: nearly the same curve, and for one weight the exact optimum of the evidence. Its prior is
# proper, but chosen by looking at the data, which is *empirical* Bayes; and the bar stays at one standard error.

# %%
order = np.random.default_rng(0).permutation(len(pixels))
split = [(pixels[rows].astype(np.float32), digits[rows].astype(np.int64)) for rows in (order[360:], order[:360])]
small_digits = svd.Dataset("digits, 8x8", *split[0], *split[1], None, 10, "scikit-learn")


# %%
def with_prior(prior, seed, epochs=60 if FULL else 6):
    """Test error in percent and weights left of a network 64-100-10."""
    layers = svd.VariationalDense(64, 100), svd.ReLU(), svd.VariationalDense(100, 10)
    net, lr = svd.Sequential(*layers, prior=prior, seed=seed), ((2 * epochs / 3, 1.0), (epochs, 0.0))
    config = svd.TrainConfig(epochs, 50, 5e-3, lr, ((0, 0.0), (epochs / 3, 1.0)), seed=seed)
    svd.fit(net, small_digits, config, progress=False)
    wrong = 100 * svd.evaluate(net, small_digits.x_test, small_digits.y_test)["error"]
    return wrong, sum(svd.measure_sparsity(net).kept.values())


# %%
for prior in ("log_uniform", "log_uniform_exact", "ard"):
    results = [with_prior(prior, seed) for seed in range(5 if FULL else 1)]
    mean, spread = np.mean(results, axis=0), np.std(results, axis=0)
    print(f"{prior:18} test error {mean[0]:.1f} ± {spread[0]:.1f} %, weights left {mean[1]:.0f} ± {spread[1]:.0f}")

# %% [markdown]
# All three agree within the spread of the seeds. The impropriety is a flaw of the story, not of the networks.
#
# ## The honest baseline
#
# Train an ordinary network, cut the smallest weights, fine-tune the rest: **magnitude pruning.** Gale, Elsen and Hooker (2019) compared it with Sparse VD on two large networks. It did as well
# or better, except at extreme sparsity on one of them. Here is LeNet-300-100 on MNIST, or on the small digits. Cutting needs no new
# code: give all weights the *same* noise, and $\log\alpha$ orders them by magnitude. So Sparse VD cuts by
# magnitude, too, but **in units of the noise that each weight can bear.**
#
# **Predict.** At 60 times fewer weights: whose error is lower, that of Sparse VD or of magnitude pruning? And without any fine-tuning?

# %%
data = svd.load("auto") if FULL else svd.load("digits")
sizes = {"mnist": (10, 20), "digits": (60, 100)}[data.name] if FULL else (12, 12)  # epochs: dense, Sparse VD
STOP, L2 = 0.7, 1e-4  # of gradual magnitude pruning, chosen in notebook 5


def lenet(layer, seed=0):
    """LeNet-300-100."""
    return svd.Sequential(layer(784, 300), svd.ReLU(), layer(300, 100), svd.ReLU(), layer(100, 10), seed=seed)


# %%
def fit(model, epochs, kl=((0, 0.0),)):
    """Adam, its rate falling to 0 in the second half."""
    lr = (epochs / 2, 1.0), (epochs, 0.0)
    svd.fit(model, data, svd.TrainConfig(epochs=epochs, kl_schedule=kl, lr_schedule=lr), progress=False)
    return model


def error(model):
    """Test error in percent."""
    return 100 * svd.evaluate(model, data.x_test, data.y_test)["error"]


# %%
dense = fit(lenet(svd.Dense), sizes[0])
sparse = fit(lenet(svd.VariationalDense), sizes[1], ((0, 0.0), (sizes[1] / 2, 1.0), (0.8 * sizes[1], 2.0)))
own = svd.measure_sparsity(sparse).compression
print(f"{data.name}: dense {error(dense):.2f} %; Sparse VD {error(sparse):.2f} %, 1 weight in {own:.0f} left")

# %% [markdown]
# Both networks are cut *at once* to five sizes. Then they are fine-tuned: Sparse VD for two epochs at each size; magnitude pruning
# *step by step*, two epochs after each cut. The strongest competitor is **gradual** magnitude pruning (Zhu and Gupta 2017): for each size a run of its own, in
# which weights leave a few at a time, with the settings of [notebook 5](05_reproduce_the_paper.ipynb) and as many epochs as Sparse VD with its fine-tuning.


# %%
def prune(model, share, epochs):
    """Keep this share of the weights, those with the smallest log α, and fine-tune them."""
    threshold = svd.threshold_for_density(model, share)
    if not epochs:
        return svd.sparsify(model, threshold)
    tuned = model.copy()
    config = svd.TrainConfig(epochs=0, finetune_epochs=epochs, finetune_threshold=threshold)
    svd.fit(tuned, data, config, progress=False)
    return tuned


# %%
def gradual(factor, epochs):
    """Ordinary weights, so many times fewer at the end, in one run."""
    pruning = svd.GradualMagnitude(start=0.1 * epochs, stop=STOP * epochs, sparsity=1 - 1 / factor, l2=L2)
    lr = (STOP * epochs, 1.0), (epochs, 0.0)
    model, config = lenet(svd.Dense), svd.TrainConfig(epochs=epochs, lr_schedule=lr, pruning=pruning)
    svd.fit(model, data, config, progress=False)
    return model


# %%
magnitude = lenet(svd.VariationalDense).init_from(dense)
for layer in magnitude.variational_layers:
    layer.log_sigma2[...] = -20  # the same for all
factors, tune = (np.array([5, 10, 20, 35, 60]), 2) if FULL else (np.array([10, 50]), 1)

# %%
curves, stepwise = {}, magnitude
for factor in factors:
    stepwise = prune(stepwise, 1 / factor, tune)
    for way, model in (
        ("magnitude, at once", prune(magnitude, 1 / factor, 0)),
        ("magnitude, step by step", stepwise),
        ("Sparse VD, at once", prune(sparse, 1 / factor, 0)),
        ("magnitude, gradual", gradual(factor, sizes[1] + tune)),
        ("Sparse VD, fine-tuned", prune(sparse, 1 / factor, tune)),
    ):
        curves.setdefault(way, []).append(error(model))

# %%
fig, ax = plt.subplots(figsize=(7, 3.8))
for way, errors in curves.items():
    colour = "train" if "Sparse" in way else "accent" if "gradual" in way else "test"
    look = {"color": COLOURS[colour], "linestyle": ":" if "at once" in way else "-"}
    ax.plot(100 / factors, errors, "o", markersize=3.5, label=way, **look)
ax.axhline(error(dense), color=COLOURS["ink"], linewidth=1, linestyle="--", label="dense network")
ax.set(xscale="log", yscale="log", xlabel="weights left (%)", ylabel="test error (%)")
ax.set_xticks(100 / factors, [f"{100 / factor:.3g}" for factor in factors], minor=False)
ax.set_xticks([], minor=True)
low, high = min(map(min, curves.values())), max(map(max, curves.values()))
ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if 0.8 * low < tick < 1.2 * high]
ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
ax.set_yticks([], minor=True)
ax.invert_xaxis()  # sparser to the right, as in notebook 5
ax.set_title(f"LeNet-300-100 on {data.name}: one dense network, one Sparse VD network")
ax.legend(fontsize=8.5)
plt.show()
print("times fewer  " + "  ".join(f"{factor:5}" for factor in factors))
for way, errors in curves.items():
    print(f"{way:24} " + "  ".join(f"{e:5.2f}" for e in errors))
if FULL and data.name == "mnist":
    stepwise, tuned = curves["magnitude, step by step"], curves["Sparse VD, fine-tuned"]
    assert stepwise[1] < error(dense) + 0.7 and all(a < b for a, b in zip(tuned[2:], stepwise[2:], strict=True))
    assert curves["magnitude, at once"][1] > 5 and max(curves["Sparse VD, at once"]) < 4
chance = np.sqrt(error(dense) / 100 * (1 - error(dense) / 100) / len(data.x_test))
print(f"standard error of one such number: about {100 * chance:.2f}")

# %% [markdown]
# Cut at once, the ordinary network breaks down where Sparse VD's hardly notices: it has arranged itself to be cut. Step by step, magnitude pruning holds out to a tenth of the
# weights, then falls behind. **Pruned gradually, it keeps up:** at 60 times fewer weights it errs on 1.97 % of the MNIST images, Sparse VD on 1.89 %, and one standard error is 0.12. The lead over
# the weaker baseline was a matter of care, not of Bayes. Do not carry even that elsewhere: this is one network and one seed.
#
# ## Does the posterior know what it does not know?
#
# A Sparse VD network still has its noise, so one can draw networks from $q$ and see where they disagree: on images of another kind, one hopes. The score is the *AUROC*: the probability
# that a random foreign image gets a higher entropy than a random familiar one.
#
# **Predict.** Averaging 30 drawn networks instead of asking the pruned one once: how much higher is the AUROC?

# %%
try:
    foreign = svd.load("fashion-mnist") if data.name == "mnist" else None
except svd.DataError:
    foreign = None
if foreign is None:  # images turned to noise: the same pixels in another order
    mixed = np.random.default_rng(0).permuted(data.x_test, axis=1)
    foreign = svd.Dataset("pixels, shuffled", mixed, data.y_test, mixed, data.y_test, (1, 28, 28), 10, "this notebook")

# %%
report = svd.measure_uncertainty(sparse, inside=data, outside=foreign, n=30 if FULL else 5)
print(report)
figures = {way: row.to_dict() for way, row in report.rows.items()}
if FULL and data.name == "mnist":
    gains = [figures[way]["auroc_total"] - figures["pruned"]["auroc_total"] for way in ("survivors", "posterior")]
    assert abs(gains[0]) < 0.01 and abs(gains[1]) < 0.03
    assert all(figures[way]["ece"] > figures["pruned"]["ece"] for way in ("survivors", "posterior"))

# %%
report.plot()

# %% [markdown]
# A foreign image stands out nearly nine times in ten. But **the pruned network, asked once, notices it nearly as well as thirty drawn networks**: all this sampling moves the AUROC by
# hundredths. Drawing the survivors alone adds nothing. And the *calibration error* (ECE), the mean gap between stated probability and share that is right, gets larger. Now something in between: digits, turned.

# %%
angles, shown = np.arange(0, 181, 15), data.x_test[: 1000 if FULL else 100]
turning = {"right": [], "once": [], "sampled": [], "knowledge": []}
for angle in angles:
    turned = rotate(shown.reshape(-1, 28, 28), angle, axes=(1, 2), reshape=False, order=1).reshape(-1, 784)
    once = sparse.predict_proba(turned)
    drawn = svd.decompose(svd.sample_probabilities(sparse, turned, 30 if FULL else 5))
    turning["right"].append(100 * (once.argmax(axis=1) == data.y_test[: len(shown)]).mean())
    turning["once"].append(svd.decompose(once[None]).total.mean())
    turning["sampled"].append(drawn.total.mean())
    turning["knowledge"].append(drawn.knowledge.mean())
if FULL and data.name == "mnist":
    assert turning["right"][6] < 20 and turning["sampled"][6] < 0.6 * log(10)

# %%
fig = plt.figure(figsize=(8.6, 4.2), layout="constrained")
above, below = fig.subfigures(2, 1, height_ratios=(1, 4.2))
for angle, ax in zip(angles, above.subplots(1, len(angles)), strict=True):
    ax.imshow(rotate(shown[0].reshape(28, 28), angle, reshape=False, order=1), cmap="Greys")
    ax.set_title(f"{angle}°", fontsize=8, loc="center")
    ax.set_axis_off()
left, right = below.subplots(1, 2)
left.plot(angles, turning["right"], "o-", color=COLOURS["ink"], markersize=3)
left.set(xlabel="rotation (degrees)", ylabel="right (%)", title="The pruned network's guesses", ylim=(0, 103))
for way, colour, label in (
    ("once", "train", "entropy, asked once"),
    ("sampled", "test", "entropy, 30 networks"),
    ("knowledge", "accent", "of it, by disagreement"),
):
    right.plot(angles, turning[way], "o-", color=COLOURS[colour], markersize=3, label=label)
right.set(xlabel="rotation (degrees)", ylabel="mean (nats)", title="What it says about them", ylim=(0, None))
right.legend(fontsize=8.5)
plt.show()

# %% [markdown]
# Doubt grows with the angle, and so does the part of it that is disagreement. But not enough: at 90° more than four guesses in five are wrong, and the mean entropy is still far below the
# $\log 10 = 2.30$ nats of a network that says it knows nothing. A network that is unsure about its *weights* need not be unsure about *images of a kind
# that it has never seen*.
#
# Turn a digit yourself. (Without a running kernel you see one position of the sliders.)

# %%
from ipywidgets import IntSlider


# %%
@slide(number=IntSlider(min=0, max=50, value=0, description="image"), angle=IntSlider(max=180, step=5))
def show_turned(number, angle):
    """A turned digit, and what the pruned network and 30 drawn ones say about it."""
    turned = rotate(shown[number].reshape(28, 28), angle, reshape=False, order=1).reshape(1, 784)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), width_ratios=(1, 2))
    left.imshow(turned.reshape(28, 28), cmap="Greys")
    left.set_axis_off()
    right.bar(np.arange(10) - 0.2, sparse.predict_proba(turned)[0], 0.4, color=COLOURS["train"], label="asked once")
    sampled = svd.sample_probabilities(sparse, turned, 30).mean(axis=0)[0]
    right.bar(np.arange(10) + 0.2, sampled, 0.4, color=COLOURS["test"], label="30 networks")
    right.set(xticks=range(10), ylim=(0, 1), xlabel="class", ylabel="probability")
    right.legend()


# %% [markdown]
# ## When it is not worth it
#
# Two cases from this repository's benchmarks: [run time](../benchmarks/results/break_even.md), one layer against NumPy's matrix product, and
# [small tables](../benchmarks/results/regression.md), ten splits. (One column of the Boston data rates towns by the share of their Black residents. Use it to
# compare figures, never as a model of the world.)

# %% tags=["results"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
shapes = ((64, 64), "test"), ((300, 100), "accent"), ((784, 300), "train"), ((1000, 1000), "sparsity")
even_rows = [row for row in committed("break_even.json") if row]
for shape, colour in shapes:
    rows = [row for row in even_rows if tuple(row["shape"]) == shape]
    found = [100 * (row["even_blas"] or 1) for row in rows]  # None: faster at every density that was tried
    left.loglog([row["batch"] for row in rows], found, "-", color=COLOURS[colour], label=" × ".join(map(str, shape)))
    for row, value in zip(rows, found, strict=True):
        fill = "white" if value in (1, 100) else COLOURS[colour]  # at the end of what was tried
        left.plot(row["batch"], value, "o", color=COLOURS[colour], markerfacecolor=fill)
left.set(xlabel="batch", ylabel="weights left (%)", title="Faster than BLAS: below the line", ylim=(0.5, 150))
left.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
left.legend(fontsize=8.5, title="open: end of the range tried", title_fontsize=8)
relative = {}
for case, runs in committed("regression.json").items():
    table, model = case.split(": ")
    relative.setdefault(table, {})[model] = np.mean([(r["test_rmse"], 100 * r["sparsity"]) for r in runs], axis=0)
for (table, models), colour in zip(relative.items(), ("train", "test"), strict=False):
    unit = models["dense network"][0]
    points = sorted((share, rmse / unit) for model, (rmse, share) in models.items() if model != "ridge")
    right.plot(*np.transpose(points), "o-", color=COLOURS[colour], label=f"{table}: dense network, then Sparse VD")
    right.axhline(models["ridge"][0] / unit, color=COLOURS[colour], linestyle=":", label=f"{table}: ridge")
right.set(xlabel="pruned (%)", ylabel="test RMSE / dense network's", title="Two small tables", ylim=(0.7, 1.9))
right.legend(fontsize=8, loc="upper left")
fig.tight_layout()
plt.show()
for row in even_rows:
    if row["batch"] == 1:
        print(
            f"{row['shape'][0]:4} x {row['shape'][1]:4}, one image: NumPy {row['blas']:6.1f} µs, sparse code with nothing to do {row['empty']:4.1f} µs"
        )
    if row["shape"] == [64, 64] and row["batch"] == 1:
        assert row["empty"] > row["blas"]
if relative:
    assert relative["boston"]["Sparse VD, KL weight 1"][0] > 1.1 * relative["boston"]["dense network"][0]
    assert relative["diabetes"]["Sparse VD, KL weight 1"][0] > relative["diabetes"]["ridge"][0]

# %% [markdown]
# - **Small layers.** At 64×64, NumPy has finished before sparse code has got going: calling it with nothing to do takes longer than the whole product. Larger layers
#   pay off once a quarter to a half of the weights is left, by shape and batch; 300×100, for one image, hardly ever.
# - **Small tables.** On diabetes, pruning rescues an overfitting network, and makes it about as good as ridge regression, which takes a line of code. On Boston the network
#   was good, and pruning nine weights in ten costs a tenth more error.
#
# ## Exercises
#
# **Exercise 1.** Let the data be three answers "yes" with $L(w) = (1 + e^{-w})^{-3}$ instead of a measurement. At which ends does $\int L(w)/|w|\,dw$ diverge now?
#
# **Exercise 2.** The KL weight is a significance level in disguise. Which KL weight turns Sparse VD's rule into the 5 % test, and which into BIC's rule for 60,000 images? What is
# the rule at a KL weight of 2.2, the recipe's last? (See `rules` and `limit`.)
#
# **Exercise 3.** BIC's bar rises with the data; Sparse VD's should not. Give the one-layer network four times as many meaningless examples, in batches four times as large. Does it keep a smaller share?
#
# **Exercise 4.** Start Sparse VD from `nets["plain, random labels"]`, which has memorised its labels. Does it end empty? Compare the two objectives.
#
# **Exercise 5.** Magnitude pruning compared weights of *all* layers. Prune each layer by the same share instead, at once, without fine-tuning. Which is better? (Set the small entries
# of each `layer.theta` in `magnitude.copy().variational_layers` to 0.)
#
# **Exercise 6.** Calibrate the pruned network with one number: divide its logits by $T$, chosen for the smallest NLL on half of the test images, and measure on the other half. Compare with
# the mean of `svd.sample_probabilities(sparse, images, 30)`. (`svd.calibration(probabilities, labels).error` is the calibration error.)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. At both. Large weights explain "yes" perfectly, so nothing tames them either: L(e^u) → 1 for u → ∞.
for u in (-20.0, 0.0, 20.0):
    both_signs = sum(np.exp(-3 * np.logaddexp(0, -w)) for w in (np.exp(u), -np.exp(u)))
    print(f"log |w| = {u:3.0f}: integrand {both_signs:.3f}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. The rule is |z| > 1.06 √β, so β = (z / 1.06)².
for rule in ("a 5 % test", "BIC, 60,000 images"):
    print(f"{rule}: KL weight {(rules[rule] / limit) ** 2:.1f}")
print(f"KL weight 2.2: |z| > {limit * 2.2**0.5:.2f}")
assert np.isclose(needed_z(np.exp(-3.0), "log_uniform", 2.2), limit * 2.2**0.5)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. The share does not fall: more data do not make this penalty discard the lucky part of the noise.
four_times = micro.make_net(30, 10)
train(four_times, rng.normal(size=(2000, 30)), rng.integers(0, 10, 2000), 1.0, long, batch=200)
print(f"{micro.kept(four_times[0]).mean():.0%} kept, before {micro.kept(shallow[0]).mean():.0%}")
if FULL:
    assert micro.kept(four_times[0]).mean() > 0.8 * micro.kept(shallow[0]).mean()

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. Not within this time: it forgets, but slowly, and is far worse than nothing by its own objective. A network
# that the data hold in place is a long way from the empty one, and gradient descent has to walk it.
accuracy, kept, nll, kl = train(nets["plain, random labels"], x, dice, 1.0)[-1]
print(f"{accuracy:.0%} right, {kept:.0f} weights left, objective {nll + kl:.2f}; the empty network has {log(10):.2f}")
if FULL:
    assert nll + kl > log(10) and kept > 20

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. The first layer has most of the weights and the smallest ones, the last layer few that all matter.
for factor in factors[:3]:
    equal = magnitude.copy()
    for layer in equal.variational_layers:
        size = np.abs(layer.theta)
        layer.theta[size < np.quantile(size, 1 - 1 / factor)] = 0
    print(
        f"{factor} times fewer: all layers alike {error(equal):.1f} %, together {error(prune(magnitude, 1 / factor, 0)):.1f} %"
    )

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 6. One number, and no sampling at all.
half = len(data.x_test) // 2
logits, labels = sparse.predict(data.x_test).astype(float), data.y_test


def tempered(temperature):
    """Class probabilities of all test images."""
    p = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return p / p.sum(axis=1, keepdims=True)


def mean_nll(temperature):
    """On the first half, where the temperature is chosen."""
    return -np.log(tempered(temperature)[np.arange(half), labels[:half]]).mean()


best = min(np.linspace(0.2, 3, 141), key=mean_nll)
drawn = svd.sample_probabilities(sparse, data.x_test[half:], 30 if FULL else 5).mean(axis=0)
for way, p in (("as it is", tempered(1)[half:]), (f"T = {best:.2f}", tempered(best)[half:]), ("sampled", drawn)):
    print(f"{way:10} calibration error {100 * svd.calibration(p, labels[half:]).error:.2f} %")

# %% [markdown]
# ## In practice
#
# Use Sparse VD where a large layer must become very sparse, and where that is worth its price: training takes about twice the arithmetic. Report magnitude pruning
# beside it, with as much training. Do not report the objective as a bound on the evidence; if you want a
# prior that exists, take `prior="ard"`. Do not sell samples as knowledge of the unknown before an AUROC has shown it. And leave the method alone where layers or tables are
# small, or where nobody needs a small network.
#
# ## Further reading
#
# - Hron, Matthews, Ghahramani: [Variational Bayesian dropout: pitfalls and fixes](https://arxiv.org/abs/1807.01969), 2018.
# - Kharitonov, Molchanov, Vetrov: [Variational Dropout via Empirical Bayes](https://arxiv.org/abs/1811.00596), 2018.
# - Gale, Elsen, Hooker: [The State of Sparsity in Deep Neural Networks](https://arxiv.org/abs/1902.09574), 2019.
# - Zhang, Bengio, Hardt, Recht, Vinyals: [Understanding deep learning requires rethinking generalization](https://arxiv.org/abs/1611.03530), 2017.
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017, section 5.
