# Answers to the tutorial 01_price_a_weight: What does the log-uniform prior charge for a weight?
#
# They continue the notebook: run them in it.

# %% kl_monte_carlo
def kl_monte_carlo(log_alpha, draws):
    """KL in nats and its standard error, by drawing the noise."""
    sample = np.log(np.abs(1 + np.exp(log_alpha / 2) * rng.standard_normal(draws)))
    return np.mean(sample) - log_alpha / 2 + C, np.std(sample) / np.sqrt(draws)

# %% slope_exact
def slope_exact(log_alpha):
    """Derivative of the exact KL with respect to log α."""
    x = np.exp(-log_alpha / 2) / np.sqrt(2)
    return -x * dawsn(x)

# %% ard
ard = 0.5 * np.log1p(np.exp(-fine))

# %% Exercise 1
# Solution 1. For α → 0 the fit becomes -½ log α + k1 (the sigmoid is 0), the exact price -½ log α + C (log|1 + small| is 0).
print(f"k1 should be C = {C:.5f}; the paper's is {PAPER[0]:.5f}, {100 * (PAPER[0] / C - 1):.2f} % above")

# %% Exercise 2
# Solution 2. Share of the price of log α = -4 that is left at a threshold.
for threshold in (1.0, 3.0):
    print(f"threshold {threshold:.0f}: {kl_exact(threshold):.4f} nats, {kl_exact(threshold) / kl_exact(-4.0):.1%}")
# Both are small change: whatever lies there costs next to nothing, and the data gain next to nothing from it.

# %% Exercise 3
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

# %% Exercise 4
# Solution 4. The pull is dKL/dρ = √2 D(ρ/√2), divided by σ. Small means are hardly pulled, nor are large ones: like 1/ρ.
pull = pull_on_theta
hardest = ratio[np.argmax(pull)]
print(f"hardest at |θ|/σ = {hardest:.2f} (log α = {-2 * np.log(hardest):.2f}): {pull.max():.3f} / σ")
print(f"ten times as large: {np.sqrt(2) * dawsn(10 * hardest / np.sqrt(2)):.3f} / σ, against 1/ρ = {0.1 / hardest:.3f}")
assert 1.29 < hardest < 1.32
# An L2 penalty pulls a mean ten times as large ten times as hard. This prior leaves alone what is far from 0: it chooses.

# %% Exercise 5
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
