# %% [markdown]
# # Why pay for a weight?
#
# **What you'll do.** Learn a single weight from twenty measurements, exactly by Bayes' rule and then by maximising a bound, and compare the two. See what
# the bound turns into when the data come in batches, as copies, or as sequences. Then recognise ordinary dropout in it.
#
# **What you'll learn.** Where the objective $\mathrm{NLL} + \mathrm{KL}/N$ comes from, why it is called the evidence lower bound, what $N$ is,
# and what $\alpha$ has to do with a dropout rate.
#
# **What you'll need.** NumPy and the normal distribution. About 25 minutes. No earlier notebook is needed.

# %% tags=["setup"]
# From cells.py.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal, norm

from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests run with fewer draws

# %% [markdown]
# ## One weight, exactly
#
# The model: $y_n = w\,x_n + \text{noise}$, with noise $\mathcal N(0, 1)$. Before we see any data we believe $w \sim \mathcal N(0, 1)$, the **prior**. Twenty
# measurements arrive. Bayes' rule says what to believe now, the **posterior**:
#
# $$p(w \mid \text{data}) = \frac{p(\text{data} \mid w)\;p(w)}{p(\text{data})}, \qquad p(\text{data}) = \int p(\text{data}\mid w)\,p(w)\,dw .$$
#
# The number $p(\text{data})$ is the **evidence**. For this model everything has a formula: the posterior is normal, with
# precision $1 + \sum x_n^2$ and mean $\sum x_ny_n$ over that precision.

# %%
rng = np.random.default_rng(4)
N = 20
x = rng.normal(size=N)
y = 0.5 * x + rng.normal(size=N)  # the true weight is 0.5
precision = 1 + np.sum(x**2)
best_mean, best_std = np.sum(x * y) / precision, precision**-0.5
print(f"posterior: mean {best_mean:.3f}, standard deviation {best_std:.3f}")

# %% [markdown]
# The evidence in two ways: the $y_n$ are jointly normal with covariance $I + xx^\top$; and by brute force, the integral on a grid.

# %%
log_evidence = multivariate_normal(np.zeros(N), np.eye(N) + np.outer(x, x)).logpdf(y)
w = np.linspace(-4, 4, 8001)
log_likelihood = norm.logpdf(y[:, None], w * x[:, None], 1).sum(axis=0)
brute_force = np.log(np.trapezoid(np.exp(log_likelihood) * norm.pdf(w), w))
print(f"log evidence: {log_evidence:.6f} by the formula, {brute_force:.6f} by brute force")
assert np.isclose(log_evidence, brute_force)

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.fill_between(w, norm.pdf(w), color=COLOURS["pruned"], alpha=0.6, label="prior")
ax.fill_between(w, norm.pdf(w, best_mean, best_std), color=COLOURS["train"], alpha=0.5, label="posterior")
ax.axvline(0.5, color=COLOURS["test"], linestyle="--", label="true weight")
ax.set(xlabel="w", ylabel="density", xlim=(-3, 3), title="Twenty measurements narrow the belief")
ax.legend()
plt.show()

# %% [markdown]
# ## The bound
#
# A network has no such formulas. So choose a family of distributions, here $q = \mathcal N(m, s^2)$, and look for the member that is nearest to the posterior.
# Take the logarithm of the evidence, multiply and divide by $q$ inside the integral, and use that the logarithm is concave (Jensen's inequality):
#
# $$\log p(\text{data}) = \log \mathbb E_q\!\left[\frac{p(\text{data}\mid w)\,p(w)}{q(w)}\right] \;\ge\; \mathbb E_q\big[\log p(\text{data}\mid w)\big] - \mathrm{KL}(q\,\|\,\text{prior}).$$
#
# The right-hand side is the **evidence lower bound**. Its first term asks $q$ to explain the data. Its second term is what you pay: the
# Kullback–Leibler divergence $\mathrm{KL}(q\,\|\,\text{prior}) = \mathbb E_q[\log q - \log\text{prior}]$, the distance that $q$ has moved away from the prior. Logarithms are
# natural, so its unit is the *nat*. **That is why a weight costs something**: a number that you know precisely is a claim, and claims must be worth their price.
#
# For our model both terms have a formula. The second one, for two normal distributions with prior $\mathcal N(0, 1)$, is
#
# $$\mathrm{KL} = \tfrac12\left(m^2 + s^2 - 1\right) - \log s .$$


# %% kl_normal tags=["blank"]
def kl_normal(m, s):
    """KL of N(m, s²) from N(0, 1), in nats."""
    return 0.5 * (m**2 + s**2 - 1) - np.log(s)  # blank


# %% tags=["check"]
check(
    "kl_normal",
    lambda: np.isclose(kl_normal(0.0, 1.0), 0) and np.isclose(kl_normal(1.0, 0.5), 0.818147),
    "Copy the formula: a half of (m² + s² - 1), minus the logarithm of s.",
    "0.5 * (m**2 + s**2 - 1) - np.log(s)",
)


# %%
def fit(m, s):
    """Mean under q of the log likelihood of all data: (y - w x)² has the mean (y - m x)² + s² x²."""
    return -0.5 * np.sum(np.log(2 * np.pi) + (y - m * x) ** 2 + s**2 * x**2)


def bound(m, s):
    """Evidence lower bound, in nats."""
    return fit(m, s) - kl_normal(m, s)


# %% [markdown]
# **Predict.** Hold $m$ at the mean of the posterior and vary $s$. Where is the bound highest? Does it reach the evidence?

# %% tags=["cover"]
widths = np.geomspace(0.03, 2, 200)
fig, ax = plt.subplots(figsize=(7, 3.6))
ax.axhline(log_evidence, color=COLOURS["ink"], label="log evidence")
ax.plot(widths, [bound(best_mean, s) for s in widths], color=COLOURS["test"], linewidth=2.5, label="bound")
ax.plot(widths, [fit(best_mean, s) for s in widths], "--", color=COLOURS["train"], label="fit: E log likelihood")
ax.axvline(best_std, color=COLOURS["pruned"], linestyle=":", label="posterior's s")
ax.set(xscale="log", xlabel="s, the width of q", ylabel="nats", ylim=(log_evidence - 8, log_evidence + 4))
ax.set(
    xticks=[0.03, 0.1, 0.3, 1, 2], xticklabels=["0.03", "0.1", "0.3", "1", "2"], title="The bound touches the evidence"
)
ax.legend(loc="lower left")
plt.show()

# %%
print(f"bound at the posterior: {bound(best_mean, best_std):.6f}; log evidence {log_evidence:.6f}")
for m, s in ((best_mean, 0.5), (0.0, best_std), (1.0, 1.0)):
    # in units in which the posterior is N(0, 1)
    q_from_posterior = kl_normal((m - best_mean) / best_std, s / best_std)
    print(f"m = {m:.2f}, s = {s:.2f}: gap {log_evidence - bound(m, s):.4f}, KL(q, posterior) {q_from_posterior:.4f}")
    assert np.isclose(log_evidence - bound(m, s), q_from_posterior)

# %% [markdown]
# It touches, exactly at the posterior. And elsewhere the gap is the KL of $q$ from the posterior. **So to maximise the bound is to look for the
# posterior, without ever computing the evidence.** (Without the price only the dashed line would count, and it is highest at full certainty, $s \to 0$.)
#
# ## What $N$ is
#
# Training sees batches. Divide the bound by the number $N$ of independent examples and change its sign; then the loss of a batch is its mean negative log likelihood (NLL) plus a share of the KL:
#
# $$\underbrace{\frac1B\sum_{b} -\log p(y_b\mid w)}_{\text{mean NLL of the batch}} \;+\; \frac{\mathrm{KL}}{N} .$$
#
# $N$ is **the number of training examples**, not the size $B$ of a batch: the price is paid once, for all the data. Let us get it wrong on purpose. To
# weight the KL by $\beta$ is to act as if there were $N/\beta$ examples: the optimal precision becomes $1 + \sum x_n^2/\beta$.


# %% posterior_std tags=["blank"]
def posterior_std(beta):
    """Width of the best q when the KL is weighted by beta."""
    return (1 + np.sum(x**2) / beta) ** -0.5  # blank


# %% tags=["check"]
check(
    "posterior_std",
    lambda: np.isclose(posterior_std(1.0), best_std) and np.isclose(posterior_std(1e9), 1),
    "The sentence above gives the precision; a standard deviation is one over its root.",
    "(1 + np.sum(x**2) / beta) ** -0.5",
)

# %%
batch = 5
for mistake, beta in (("right, KL / N", 1), ("KL / B, batches of 5", N / batch), ("KL not divided", N)):
    print(f"{mistake:22} acts like {N / beta:4.0f} examples: width {posterior_std(beta):.3f}")
assert posterior_std(N) > posterior_std(N / batch) > posterior_std(1)

# %% [markdown]
# With 60,000 images the last mistake acts like one image, and everything is pruned.
#
# **Augmented images.** Shift every image by a pixel in nine ways, and an epoch has nine times as many. Is $N$ nine times as large? The shifted copies
# say nothing new about the labels. Count them as independent and you believe in data that you do not have. Our weight shows it: copy each
# measurement nine times and ask how often the truth lies within two widths of the mean. It should be 95 %.
#
# **Predict.** What will it be if the copies are counted?

# %%
trials = 4000 if FULL else 1000
truths = rng.normal(size=trials)
ys = truths[:, None] * x + rng.normal(size=(trials, N))


def inside(copies):
    """Share of trials in which the truth is within two widths, if each measurement counts so many times."""
    precision = 1 + copies * np.sum(x**2)
    means = copies * (ys @ x) / precision
    return np.mean(np.abs(means - truths) < 2 / np.sqrt(precision))


# %%
for copies in (1, 9):
    print(f"each measurement counted {copies} times: the truth is inside in {inside(copies):.0%} of the trials")
assert abs(inside(1) - 0.954) < 0.03 and inside(9) < 0.6

# %% [markdown]
# So with augmentation $N$ stays the number of original images. That is what the package does: it divides by the rows of the training set, whatever
# augmentation makes of them.
#
# **Sequences.** A text of a million letters has a million terms $-\log p(\text{letter} \mid \text{before})$, so a loss *per letter* has
# $\mathrm{KL}/(\text{number of letters})$. A film review has one label, so a loss *per review* has $\mathrm{KL}/(\text{number of reviews})$, however long they are.
# The rule: **divide the KL by the number of terms that the mean is taken over.** Some programs take the mean over letters but count rows of $T$ letters as
# examples. For the bound, their KL weight must then be $1/T$, not 1 ([notebook 14](14_forget_over_time.ipynb)). (The package's `fit` counts letters.)
#
# ## Dropout, in the same words
#
# Ordinary dropout multiplies each unit by 0 with probability $p$, and by $1/(1-p)$ otherwise. That factor has the mean 1. Its variance is
# $\alpha$: the noise variance over the squared mean, as in *the dropout rate of a weight*, $w = \theta\,(1 + \sqrt\alpha\,\varepsilon)$.


# %% alpha_of tags=["blank"]
def alpha_of(p):
    """Variance of a factor that is 0 with probability p and 1 / (1 - p) otherwise."""
    return p / (1 - p)  # blank


# %% tags=["check"]
check(
    "alpha_of",
    lambda: np.isclose(alpha_of(0.5), 1) and np.isclose(alpha_of(0.2), 0.25),
    "The mean is 1, so the variance is the mean square minus 1.",
    "The mean square is (1 - p) / (1 - p)², so the variance is 1 / (1 - p) - 1.",
)

# %%
for p in (0.2, 0.5, 0.95):
    factor = (rng.random(400_000) > p) / (1 - p)
    print(
        f"p = {p}: mean {factor.mean():.3f}, variance {factor.var():.2f}; alpha {alpha_of(p):.2f}, log α {np.log(alpha_of(p)):5.2f}"
    )
    assert abs(factor.var() / alpha_of(p) - 1) < 0.05

# %% [markdown]
# Sparse variational dropout (Sparse VD), the method of these notebooks, removes a weight when $\log\alpha$ exceeds 3: a dropout rate of 95 %. A unit adds up many such terms, and by the central limit theorem it does not notice
# whether the factors were 0 and $1/(1-p)$ or normal with the same variance:

# %%
terms = rng.normal(size=100)  # inputs times weights of one unit
draws, p = 20_000 if FULL else 5_000, 0.5
bernoulli = ((rng.random((draws, 100)) > p) / (1 - p)) @ terms
gaussian = (1 + np.sqrt(alpha_of(p)) * rng.standard_normal((draws, 100))) @ terms
edges = np.linspace(gaussian.min(), gaussian.max(), 60)

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.hist(bernoulli, edges, density=True, color=COLOURS["sparsity"], alpha=0.5, label="dropout, p = 0.5")
ax.hist(gaussian, edges, density=True, histtype="step", linewidth=2, color=COLOURS["ink"], label="normal noise, α = 1")
ax.set(xlabel="output of a unit", ylabel="density", title="A unit cannot tell the two noises apart")
ax.legend()
plt.show()
assert abs(bernoulli.std() / gaussian.std() - 1) < 0.05

# %% [markdown]
# So dropout *is* this model with three things fixed: one $\alpha$ for all weights of a unit, chosen by hand instead of learned, and nothing paid for it. Sparse VD
# learns an $\alpha$ for each weight and pays a KL. Which KL, [notebook 1](01_price_a_weight.ipynb) computes.
#
# ## The same with the package
#
# `model.loss` is the loss of a batch as above. Twice the training examples halve the share of the KL, and the share of the NLL stays.

# %%
import svd_numpy as svd

model = svd.Sequential(svd.VariationalDense(4, 3), backend="numpy", dtype="float64")
inputs, labels = rng.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
nll = model.loss(inputs, labels, n_train=100, kl_weight=0.0)
for n_train in (100, 200):
    share = model.loss(inputs, labels, n_train=n_train) - nll
    print(f"N = {n_train}: NLL {nll:.4f} + KL / N {share:.4f} nats per example; KL {n_train * share:.4f}")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Maximise the bound by gradient ascent on $m$ and $\log s$, from $m = 0$, $s = 1$, one measurement at a time. (One measurement stands for all $N$: its part of the fit
# counts $N$ times, the KL once. A learning rate of 0.001 will do.) Where does it end, and how much does it jitter?
#
# **Exercise 2.** How much evidence is there *for having the weight at all*? Compare the log evidence with that of the model $y = \text{noise}$. For which true weights do the
# data, on average, prefer the model without it? (Draw many sets of measurements for several true weights.)
#
# **Exercise 3.** Show by a few draws that the gap between bound and evidence never becomes negative, whatever $m$ and $s$.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. At the posterior; the jitter falls with the learning rate, and stays if that does.
m, log_s, rate, path = 0.0, 0.0, 0.001, []
for step in range(4000):
    n = step % N
    s = np.exp(log_s)
    d_m = N * (y[n] - m * x[n]) * x[n] - m
    d_log_s = -N * s**2 * x[n] ** 2 - s**2 + 1
    m, log_s = m + rate * d_m, log_s + rate * d_log_s
    path.append((m, np.exp(log_s)))
end = np.mean(path[-1000:], axis=0)
print(
    f"ends at {end.round(3)}, posterior {best_mean:.3f}, {best_std:.3f}; jitter {np.std(path[-1000:], axis=0).round(4)}"
)
assert np.allclose(end, (best_mean, best_std), atol=0.03)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. The evidence charges for the freedom of the weight: about half the logarithm of the precision that is gained.
without = norm.logpdf(y).sum()
print(f"here: log evidence {log_evidence:.2f} with the weight, {without:.2f} without")
covariance = np.eye(N) + np.outer(x, x)
for truth in (0.0, 0.25, 0.5, 1.0):
    drawn = truth * x + rng.normal(size=(2000, N))
    gain = multivariate_normal(np.zeros(N), covariance).logpdf(drawn) - norm.logpdf(drawn).sum(axis=1)
    print(f"true weight {truth}: the weight gains {gain.mean():5.2f} nats on average")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. The gap is a KL, and a KL is never negative.
gaps = [log_evidence - bound(m, s) for m, s in zip(rng.normal(size=1000), rng.uniform(0.05, 3, 1000), strict=True)]
print(f"smallest of 1,000 gaps: {min(gaps):.4f}")
assert min(gaps) >= 0

# %% [markdown]
# ## In practice
#
# Say what your loss is a mean over, and divide the KL by the number of those terms in the whole training set. Count original examples, not augmented ones. A KL weight other
# than 1 is allowed, and often helps, but then the loss is no bound on the evidence: choose the weight on held-out data
# ([notebook 12](12_choose_the_dials.ipynb)).
#
# ## Further reading
#
# - Jordan, Ghahramani, Jaakkola, Saul: [An Introduction to Variational Methods for Graphical Models](https://doi.org/10.1023/A:1007665907178), 1999.
# - Blundell and others: [Weight Uncertainty in Neural Networks](https://arxiv.org/abs/1505.05424), 2015: the bound for networks, in batches.
# - Kingma, Salimans, Welling: [Variational Dropout and the Local Reparameterization Trick](https://arxiv.org/abs/1506.02557), 2015: dropout as normal noise.
