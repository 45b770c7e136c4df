# %% [markdown]
# # What does the log-uniform prior charge for a weight?
#
# **What you'll do.** Compute one curve, the price that Sparse Variational Dropout (Sparse VD) charges for a weight, in four
# ways: by drawing random numbers, exactly, by the formula of the paper, and by a fit of your own. Then compare it with
# the price under another prior.
#
# **What you'll learn.** Why the price depends on the signal-to-noise ratio of a weight and on nothing else, where the three
# odd constants of the paper come from and how good they are, and why this prior lets unneeded weights drown in noise.
#
# **What you'll need.** NumPy, the normal distribution, and the idea of a Kullback-Leibler divergence. About 30 minutes; no
# data and no earlier notebook are needed. To drag a weight first, without a kernel, open [the page to play with](../docs/play.html).

# %% tags=["setup"]
# From cells.py.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import curve_fit
from scipy.special import dawsn

from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests run with fewer draws
rng = np.random.default_rng(0)

# %% [markdown]
# [Notebook 0](00_pay_for_a_weight.ipynb) says why a price is paid at all: training minimises
# $\mathrm{NLL} + \mathrm{KL} / N$ per image, $N$ being the number of training images. Here we compute the KL of one weight.
#
# ## A weight that is not a number
#
# In an ordinary network a weight is a number. Here it is a normal distribution with two learned numbers, a mean $\theta$ and a
# variance $\sigma^2$. What matters is how the two compare:
#
# $$\alpha = \frac{\sigma^2}{\theta^2}, \qquad w = \theta\,(1 + \sqrt{\alpha}\,\varepsilon), \qquad \varepsilon \sim \mathcal N(0, 1).$$
#
# $\alpha$ is the *dropout rate* of the weight: noise variance over squared mean. Its logarithm will be our axis throughout.

# %%
log_alphas = np.array([-4.0, 0.0, 4.0])
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.4), sharey=True)
w = np.linspace(-4, 6, 1001)  # in units of theta
for ax, la, story in zip(axes, log_alphas, ("a precise weight", "half noise", "drowned"), strict=True):
    density = np.exp(-((w - 1) ** 2) / 2 / np.exp(la)) / np.sqrt(2 * np.pi * np.exp(la))
    ax.fill_between(w, density, color=COLOURS["train"], alpha=0.35)
    ax.axvline(1, color=COLOURS["test"], linestyle="--", linewidth=1.2)
    ax.set(title=f"log α = {la:.0f}: {story}", xlabel="weight / θ")
axes[0].set_ylabel("density")
fig.tight_layout()
plt.show()

# %% [markdown]
# On the left, the weight is known to within some ten per cent. On the right, even its sign is open: a network that manages with such
# a weight also manages without it.
#
# ## A prior without a favourite scale
#
# The **log-uniform** prior says: before seeing data, every order of magnitude of $|w|$ is equally likely,
#
# $$p(\log |w|) = \text{constant}, \qquad\text{that is,}\qquad p(w) \propto \frac{1}{|w|}.$$
#
# No such density exists (the constant would have to be 0), a defect that we note now and come back to at the end. What it
# charges is the KL divergence of the weight's posterior $q = \mathcal N(\theta, \sigma^2)$ from the prior. The axis $\log|w|$, on which
# the prior is flat, makes that visible: divergence from something flat is *narrowness*. So look at the same three weights there.

# %%
draws = 400_000 if FULL else 40_000
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.5), sharey=True)
edges = np.linspace(-6, 4, 120)
for ax, la in zip(axes, log_alphas, strict=True):
    magnitude = np.log(np.abs(1 + np.exp(la / 2) * rng.standard_normal(draws)))
    ax.hist(magnitude, edges, density=True, color=COLOURS["sparsity"], alpha=0.6)
    ax.set(title=f"log α = {la:.0f}, spread {magnitude.std():.2f}", xlabel="log |weight / θ|")
axes[0].set_ylabel("density")
fig.tight_layout()
plt.show()

# %% [markdown]
# Multiplying $\theta$ and $\sigma$ by 10 only shifts these pictures sideways. A flat prior does not notice: **the price can depend on
# $\alpha$ alone.**
#
# **Predict.** Is the price lowest for $\alpha \to 0$, for $\alpha = 1$, or for $\alpha \to \infty$? And does it have a highest
# value? Decide before you read on; the pictures hold the answer. (They do not show that on the right the sign is lost, too.)
#
# ## First bite: algebra
#
# Write the divergence out, in natural logarithms (so that its unit is the *nat*), and insert $w = \theta(1 + \sqrt\alpha\,\varepsilon)$:
#
# $$\mathrm{KL} = \mathbb E_q[\log q(w)] - \mathbb E_q[\log p(w)]
#   = -\tfrac12\log(2\pi e\,\sigma^2) + \mathbb E_q \log|w| + \text{const}.$$
#
# With $\log\sigma = \log|\theta| + \tfrac12\log\alpha$ and $\log|w| = \log|\theta| + \log|1+\sqrt\alpha\,\varepsilon|$ the mean cancels, as
# it must:
#
# $$\boxed{\ \mathrm{KL}(\alpha) = \mathbb E_\varepsilon \log|1 + \sqrt\alpha\,\varepsilon| - \tfrac12 \log\alpha + C\ }$$
#
# The prior has no normalising constant, so $C$ is ours to choose. The convention is $\mathrm{KL} \to 0$ for $\alpha\to\infty$. There
# $\log|1+\sqrt\alpha\,\varepsilon| \approx \tfrac12\log\alpha + \log|\varepsilon|$, hence $C = -\mathbb E\log|\varepsilon|$, which has a closed form.

# %%
C = (np.euler_gamma + np.log(2)) / 2
sample = np.log(np.abs(rng.standard_normal(draws)))
error = sample.std() / np.sqrt(draws)
print(f"closed form (Euler's gamma + log 2) / 2 = {C:.4f}")
print(f"from {draws:,} draws: {-sample.mean():.4f}, standard error {error:.4f}")
assert abs(C + sample.mean()) < 4 * error

# %% [markdown]
# ## Second bite: random numbers
#
# The boxed formula is an average, so average. **The line marked "your line" is yours**: replace the dots, run the cell and
# the check below it.


# %% kl_monte_carlo tags=["blank"]
def kl_monte_carlo(log_alpha, draws):
    """KL in nats and its standard error, by drawing the noise."""
    sample = np.log(np.abs(1 + np.exp(log_alpha / 2) * rng.standard_normal(draws)))  # blank
    return np.mean(sample) - log_alpha / 2 + C, np.std(sample) / np.sqrt(draws)


# %% tags=["check"]
check(
    "kl_monte_carlo",
    lambda: all(abs(kl_monte_carlo(la, 40_000)[0] - price) < 0.06 for la, price in ((-8.0, 4 + C), (9.0, 0.0))),
    "One number for each draw: log |1 + √α ε|.",
    "√α is np.exp(log_alpha / 2), and ε is rng.standard_normal(draws).",
)

# %%
grid = np.arange(-8.0, 9.0)
monte_carlo, standard_error = np.array([kl_monte_carlo(la, draws // 4) for la in grid]).T

# %%
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.errorbar(grid, monte_carlo, 2 * standard_error, fmt="o", color=COLOURS["ink"], markersize=4, label="Monte Carlo")
ax.axhline(0, color=COLOURS["pruned"])
ax.axvspan(3, 8.5, facecolor=COLOURS["pruned"], alpha=0.35, label="pruned: log α > 3")
ax.annotate("precise: every halving of σ\ncosts log 2 more", (-6, 3.7), (-4.3, 4.0), arrowprops={"arrowstyle": "->"})
ax.annotate("noise is free", (6, 0.05), (4.5, 1.2), arrowprops={"arrowstyle": "->"})
ax.set(xlabel="log α", ylabel="KL (nats)", title="What a weight costs", xlim=(-8.5, 8.5))
ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# The price falls all the way: it is lowest, 0, for $\alpha\to\infty$, and has no highest value. On the left it is a straight line of
# slope $-\tfrac12$: the price of a precise weight is the logarithm of its precision, just as a number with one more
# binary digit takes one more bit. On the right it is flat: **a weight that is noise anyway is free.** That is the engine of Sparse
# VD. Unless the data resist, every weight slides down to the right, and nothing on the way holds it back.
#
# ## Third bite: the exact curve
#
# A hundred thousand draws per weight and step would be a slow way to train, so an exact curve is worth some thought. Let
# $\rho = |\theta|/\sigma = 1/\sqrt\alpha$ be the signal-to-noise ratio. Then $\mathrm{KL} = \mathbb E\log|\rho + \varepsilon| + C$, and
#
# $$\frac{d\,\mathrm{KL}}{d\rho} = \mathbb E\,\frac{1}{\rho+\varepsilon} = \sqrt2\; D\!\left(\frac{\rho}{\sqrt2}\right),
# \qquad D(x) = e^{-x^2}\int_0^x e^{t^2}\,dt .$$
#
# The mean of $1/w$, $w = \rho + \varepsilon$, is a principal value: pair each $w$ with $-w$, and the infinities cancel. What is left is
# $\int_0^\infty \frac{\varphi(w-\rho) - \varphi(w+\rho)}{w}\,dw$ with the normal density $\varphi$, an ordinary integral; the next cell compares it with $D$,
# *Dawson's function*, which SciPy has. Integrating from $\rho = 0$, where the price is 0, gives with $x = \rho/\sqrt2$
#
# $$\mathrm{KL} = 2\int_0^{x} D(t)\,dt, \qquad \frac{d\,\mathrm{KL}}{d\log\alpha} = -x\,D(x).$$


# %%
def kl_exact(log_alpha, nodes=200):
    """KL in nats: the integral of Dawson's function, by Gauss-Legendre quadrature on [0, x]."""
    t, weights = np.polynomial.legendre.leggauss(nodes)
    x = np.exp(-np.asarray(log_alpha) / 2)[..., None] / np.sqrt(2)
    return (2 * x * weights / 2 * dawsn(x * (t + 1) / 2)).sum(axis=-1)


# %%
w_right = np.linspace(1e-6, 30, 300_001)
for rho in (0.3, 1.3, 4.0):
    pairs = (np.exp(-((w_right - rho) ** 2) / 2) - np.exp(-((w_right + rho) ** 2) / 2)) / np.sqrt(2 * np.pi) / w_right
    assert np.isclose(np.trapezoid(pairs, w_right), np.sqrt(2) * dawsn(rho / np.sqrt(2)), atol=1e-5)

# %%
print(" log α    exact   Monte Carlo  in standard errors")
for la, value, mc, se in zip(grid[::2], kl_exact(grid[::2]), monte_carlo[::2], standard_error[::2], strict=True):
    print(f"{la:6.0f}  {value:7.4f}  {mc:11.4f}  {(mc - value) / se:18.1f}")
assert np.all(np.abs(monte_carlo - kl_exact(grid)) < 4 * standard_error)

# %% [markdown]
# None of the seventeen estimates is further off than four standard errors: algebra and random numbers agree.
#
# ## Fourth bite: the paper's fit, and yours
#
# Molchanov, Ashukha and Vetrov (2017) wrote down neither integral nor Dawson's function. They drew samples as you did and fitted a formula
# that any deep-learning library can differentiate (their equation 14, with $S$ the logistic function):
#
# $$-\mathrm{KL} \approx k_1\,S(k_2 + k_3\log\alpha) - \tfrac12\log(1+\alpha^{-1}) - k_1 .$$
#
# The second term has the straight line on the left and the zero on the right; the sigmoid mends the middle. Three numbers
# are left to fit.


# %%
def kl_fit(log_alpha, k1, k2, k3):
    """The formula of Molchanov et al. 2017, equation 14, in nats."""
    return 0.5 * np.log1p(np.exp(-log_alpha)) + k1 - k1 / (1 + np.exp(-k2 - k3 * log_alpha))


# %%
PAPER = (0.63576, 1.87320, 1.48695)
fine = np.linspace(-8, 8, 641)
yours, _ = curve_fit(kl_fit, fine, kl_exact(fine), p0=(1, 1, 1))
for name, paper, own in zip(("k1", "k2", "k3"), PAPER, yours, strict=True):
    print(f"{name}: paper {paper:.5f}, least squares on the exact curve {own:.5f}")

# %% [markdown]
# **Predict.** The curve spans five nats. How far off is the fit, at most: 0.5, 0.05 or 0.005 nats?

# %% tags=["cover"]
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=(2, 1.4))
top.plot(fine, kl_exact(fine), color=COLOURS["train"], linewidth=5, alpha=0.4, label="exact")
top.plot(fine, kl_fit(fine, *PAPER), color=COLOURS["test"], label="fit of the paper")
top.plot(grid, monte_carlo, "o", color=COLOURS["ink"], markersize=3, label="Monte Carlo")
top.set(ylabel="KL (nats)", title="Three ways to the same curve")
top.legend()
for constants, label, colour in ((PAPER, "paper", "test"), (yours, "your fit", "sparsity")):
    bottom.plot(fine, 1000 * (kl_fit(fine, *constants) - kl_exact(fine)), color=COLOURS[colour], label=label)
bottom.set(xlabel="log α", ylabel="error (thousandths of a nat)", title="Fit minus exact")
bottom.legend()
fig.tight_layout()
plt.show()

# %%
residual = kl_fit(fine, *PAPER) - kl_exact(fine)
worst = np.argmax(np.abs(residual))
print(f"largest error of the paper's fit: {abs(residual[worst]):.4f} nats, at log α = {fine[worst]:.2f}")
assert abs(residual[worst]) < 0.0095

# %% [markdown]
# Below a hundredth of a nat, everywhere. Your constants differ a little from those of the paper, which does not say which
# points it fitted and how it weighted them; the errors are of the same size.
#
# ## What training feels is the slope
#
# Gradient descent never looks at the price, only at its derivative. A good fit of values may be a bad fit of slopes, so look.


# %% slope_exact tags=["blank"]
def slope_exact(log_alpha):
    """Derivative of the exact KL with respect to log α."""
    x = np.exp(-log_alpha / 2) / np.sqrt(2)
    return -x * dawsn(x)  # blank


# %% tags=["check"]
check(
    "slope_exact",
    lambda: np.allclose(slope_exact(fine)[1:-1], np.gradient(kl_exact(fine), fine)[1:-1], atol=1e-3),
    "The last formula of the third bite has it.",
    "SciPy's dawsn is D.",
)


# %%
def slope_fit(log_alpha, k1, k2, k3):
    """Derivative of the fit with respect to log α."""
    sigmoid = 1 / (1 + np.exp(-k2 - k3 * log_alpha))
    return -0.5 / (1 + np.exp(log_alpha)) - k1 * k3 * sigmoid * (1 - sigmoid)


# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.plot(fine, slope_exact(fine), color=COLOURS["train"], linewidth=5, alpha=0.4, label="exact: $-x\\,D(x)$")
ax.plot(fine, slope_fit(fine, *PAPER), color=COLOURS["test"], label="slope of the paper's fit")
ax.axhline(-0.5, color=COLOURS["pruned"], linestyle=":", label="−1/2")
ax.axvline(3, color=COLOURS["ink"], linestyle="--", linewidth=1, label="threshold 3")
ax.set(xlabel="log α", ylabel="dKL / dlog α (nats)", title="The pull towards noise")
ax.legend()
gap = np.abs(slope_exact(fine) - slope_fit(fine, *PAPER)).max()
print(f"strongest pull {slope_exact(fine).min():.3f} (exact), {slope_fit(fine, *PAPER).min():.3f} (fit)")
print(f"largest difference {gap:.4f}; pull at the threshold {slope_exact(3.0):.4f}")

# %%
ratio = np.linspace(0.01, 20, 2000)  # |θ| / σ
pull_on_theta = np.sqrt(2) * dawsn(ratio / np.sqrt(2))  # times 1 / σ
for log_sigma2 in (0, -4, -10):
    print(f"log σ² = {log_sigma2:3}: strongest pull on θ {pull_on_theta.max() * np.exp(-log_sigma2 / 2):6.1f}")
assert abs(slope_exact(fine)).max() < 2 / 3 and 0.764 < pull_on_theta.max() < 0.766

# %% [markdown]
# Along $\log\alpha$ the pull stays below two thirds of a nat. It is $\tfrac12$ for every precise weight, whether large or small; it
# fades once a weight is lost; and it never changes sign. **On $\theta$ it is not bounded**: there it is $\frac1\sigma\sqrt2\,D(\cdot)$, at most
# $0.765/\sigma$, and at $\log\sigma^2 = -10$ that is over a hundred. A weight with little noise is pulled hard, which is one reason to bring the KL in
# slowly ([notebook 3](03_watch_weights_die.ipynb)). An L2 penalty pulls large weights hardest and leaves small ones alone: it shrinks, but it does not
# choose.
#
# ## A prior that exists: ARD
#
# Give each weight a Gaussian prior $\mathcal N(0, \lambda^2)$ instead and let it choose its own $\lambda$ (*automatic relevance
# determination*; Kharitonov, Molchanov and Vetrov 2018). The divergence between two Gaussians,
# $\log\frac{\lambda}{\sigma} + \frac{\theta^2+\sigma^2}{2\lambda^2} - \tfrac12$, is smallest at $\lambda^2 = \theta^2+\sigma^2$, and what remains is
#
# $$\mathrm{KL} = \tfrac12\log\left(1 + \alpha^{-1}\right).$$
#
# That is the middle term of the paper's fit, alone. No integral, no constants, a proper prior.

# %% ard tags=["blank"]
ard = 0.5 * np.log1p(np.exp(-fine))  # blank

# %% tags=["check"]
check(
    "ard",
    lambda: np.allclose(ard, np.log(np.sqrt(1 + np.exp(-fine)))),
    "The formula above, for every entry of fine, which holds values of log α.",
    "1 / α is np.exp(-fine), and np.log1p(x) is log(1 + x).",
)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
for ax, log_uniform, other, label in (
    (left, kl_exact(fine), ard, "KL (nats)"),
    (right, slope_exact(fine), np.gradient(ard, fine), "dKL / dlog α (nats)"),
):
    ax.plot(fine, log_uniform, color=COLOURS["train"], label="log-uniform")
    ax.plot(fine, other, "--", color=COLOURS["accent"], label="ARD")
    ax.set(xlabel="log α", ylabel=label)
left.set_title("Price")
right.set_title("Pull")
left.legend()
fig.tight_layout()
plt.show()

# %% [markdown]
# Both prices fall all the way, and both slopes go from $-\tfrac12$ to 0: it is the same engine. ARD pulls less in the middle.
#
# Move a weight yourself. (Without a running kernel you see one position of the slider.)

# %%
from ipywidgets import FloatSlider


@slide(log_alpha=FloatSlider(min=-8, max=8, step=0.25, value=-2, description="log α"))
def show_weight(log_alpha):
    """The weight, and what both priors charge for it."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.8))
    std = np.exp(log_alpha / 2)
    left.fill_between(
        w, np.exp(-(((w - 1) / std) ** 2) / 2) / std / np.sqrt(2 * np.pi), color=COLOURS["train"], alpha=0.4
    )
    left.set(xlabel="weight / θ", ylabel="density", title=f"θ / σ = {1 / std:.2f}")
    right.plot(fine, kl_exact(fine), color=COLOURS["train"], label="log-uniform")
    right.plot(fine, ard, "--", color=COLOURS["accent"], label="ARD")
    right.plot(log_alpha, kl_exact(log_alpha), "o", color=COLOURS["test"])
    right.set(xlabel="log α", title=f"price {kl_exact(log_alpha):.3f} nats, pull {slope_exact(log_alpha):.3f}")
    right.legend()


# %% [markdown]
# ## The same with the package
#
# `svd_numpy` takes $\theta$ and $\log\sigma^2$, since nothing then has to be divided by a weight that may be 0, and has all three
# curves: `"log_uniform"` is the paper's fit, `"log_uniform_exact"` the integral.

# %%
import svd_numpy as svd

theta, log_sigma2 = np.ones(3), np.array([-4.0, 0.0, 4.0])  # so that log α = -4, 0, 4
for prior in ("log_uniform", "log_uniform_exact", "ard"):
    print(f"{prior:18}", svd.kl_divergence(theta, log_sigma2, prior).round(4))
assert np.allclose(svd.kl_divergence(theta, log_sigma2, "log_uniform_exact"), kl_exact(log_sigma2))

# %% [markdown]
# What goes wrong if you compute $\log\alpha$ first? Take a weight that has died completely, $\theta = 0$, with $\log\sigma^2 = -16$:

# %%
with np.errstate(divide="ignore"):
    honest = -16 - np.log(np.zeros(1) ** 2)[0]
padded = -16 - np.log(0.0**2 + 1e-8)
print(f"log α without help: {honest}; with 1e-8 inside the logarithm: {padded:.1f}, below the threshold of 3")
assert honest == np.inf and padded < 3

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** $k_1 = 0.63576$ is no accident. Let $\alpha\to0$ in the fit and in the boxed formula and compare the constants. What
# should $k_1$ have been?
#
# **Exercise 2.** Weights are pruned at $\log\alpha > 3$. What share of the price of a weight at $\log\alpha = -4$ is still
# being paid at the threshold? Would a threshold of 1 be very different?
#
# **Exercise 3.** Replace the prior by $\mathcal N(0, 1)$, fixed. Where does a weight end if the data do not care about it, and is it pruned there? Plot its
# price against $\log\sigma^2$ and say what this prior charges for that the log-uniform one does not. (The section on ARD has the divergence between two Gaussians.)
#
# **Exercise 4.** Training moves $\theta$, not $\alpha$. Hold $\sigma$ fixed: at which $|\theta|/\sigma$ does the log-uniform prior pull hardest at $\theta$, and how
# strong is the pull on a mean ten times as large? (`pull_on_theta` holds the pull for every `ratio`.)
#
# **Exercise 5.** Kingma, Salimans and Welling (2015) fitted a polynomial,
# $-\mathrm{KL} \approx \tfrac12\log\alpha + 1.16145\,\alpha - 1.50204\,\alpha^2 + 0.58630\,\alpha^3$ plus a constant, and never let $\alpha$ grow beyond 1. Choose
# the constant so that it agrees with the exact curve for $\alpha\to0$, and draw both. What would training do beyond 1?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. For α → 0 the fit becomes -½ log α + k1 (the sigmoid is 0), the exact price -½ log α + C (log|1 + small| is 0).
print(f"k1 should be C = {C:.5f}; the paper's is {PAPER[0]:.5f}, {100 * (PAPER[0] / C - 1):.2f} % above")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Share of the price of log α = -4 that is left at a threshold.
for threshold in (1.0, 3.0):
    print(f"threshold {threshold:.0f}: {kl_exact(threshold):.4f} nats, {kl_exact(threshold) / kl_exact(-4.0):.1%}")
# Both are small change: whatever lies there costs next to nothing, and the data gain next to nothing from it.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. At θ = 0 and σ = 1, so log α is infinite and the weight is pruned. But noise is free at that one size only.
log_sigma2 = np.linspace(-12, 4, 200)
price = 0.5 * (np.exp(log_sigma2) - 1 - log_sigma2)  # θ = 0
fig, ax = plt.subplots(figsize=(7, 2.6))
ax.plot(log_sigma2, price, color=COLOURS["train"], label="N(0, 1)")
ax.axhline(0, color=COLOURS["test"], linestyle="--", label="log-uniform")
ax.set(xlabel="log σ²", ylabel="KL (nats)", title="Price of a weight with θ = 0")
ax.legend()
plt.show()
small_noise = 0.5 * (0.01**2 - 1 - 2 * np.log(0.01))
print(f"θ = 0, σ = 0.01: {small_noise:.1f} nats under N(0, 1), 0 under the log-uniform prior")
assert 4 < small_noise < 4.2
# A layer whose inputs are large cannot bear σ = 1, so its useless weights stay expensive: what is pruned depends on the
# units of the inputs. The log-uniform prior has no scale.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 4. The pull is dKL/dρ = √2 D(ρ/√2), divided by σ. Small means are hardly pulled, nor are large ones: like 1/ρ.
pull = pull_on_theta
hardest = ratio[np.argmax(pull)]
print(f"hardest at |θ|/σ = {hardest:.2f} (log α = {-2 * np.log(hardest):.2f}): {pull.max():.3f} / σ")
print(f"ten times as large: {np.sqrt(2) * dawsn(10 * hardest / np.sqrt(2)):.3f} / σ, against 1/ρ = {0.1 / hardest:.3f}")
assert 1.29 < hardest < 1.32
# An L2 penalty pulls a mean ten times as large ten times as hard. This prior leaves alone what is far from 0: it chooses.

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 5. Good below log α = 0; beyond, its price falls below 0 and on without end: the noise of every weight would explode.
alpha = np.exp(fine)
polynomial = C - (fine / 2 + 1.16145124 * alpha - 1.50204118 * alpha**2 + 0.58629921 * alpha**3)
fig, ax = plt.subplots(figsize=(7, 2.6))
ax.plot(fine, kl_exact(fine), color=COLOURS["train"], linewidth=5, alpha=0.4, label="exact")
ax.plot(fine, polynomial, color=COLOURS["test"], label="polynomial of 2015")
ax.axvline(0, color=COLOURS["ink"], linestyle="--", linewidth=1)
ax.set(xlabel="log α", ylabel="KL (nats)", ylim=(-2, 4), xlim=(-6, 3), title="Made for α ≤ 1 only")
ax.legend()
plt.show()
below = fine <= 0
print(f"largest error up to α = 1: {np.abs(polynomial - kl_exact(fine))[below].max():.3f} nats")
assert np.abs(polynomial - kl_exact(fine))[below].max() < 0.05 and polynomial[fine > 2].max() < -50

# %% [markdown]
# ## In practice
#
# Use the fit or the exact curve: they differ by less than a hundredth of a nat, which is nothing beside the noise of a
# minibatch. Compute either from $\theta^2/\sigma^2$. The way through $\log\alpha = \log\sigma^2 - \log\theta^2$ gives infinities and then NaN at $\theta = 0$, and the
# usual cure, a small number inside the logarithm, caps $\log\alpha$: dead weights with little noise then count as alive. And keep in mind that a prior which cannot be
# normalised may leave a posterior which cannot be normalised either. Then the objective is a penalised likelihood that
# works, not a bound on anything. If that troubles you, use ARD.
#
# ## Further reading
#
# - Molchanov, Ashukha, Vetrov: [Variational Dropout Sparsifies Deep Neural Networks](https://arxiv.org/abs/1701.05369), 2017. Section 4.2 is
#   this notebook.
# - Kharitonov, Molchanov, Vetrov: [Variational Dropout via Empirical Bayes](https://arxiv.org/abs/1811.00596), 2018: ARD.
# - Hron, Matthews, Ghahramani: [Variational Bayesian dropout: pitfalls and fixes](https://arxiv.org/abs/1807.01969), 2018: what an improper
#   prior costs, and the exact gradient.
