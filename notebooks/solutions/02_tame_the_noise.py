# Answers to the tutorial 02_tame_the_noise: Why does training with huge noise not explode?
#
# They continue the notebook: run them in it.

# %% draw_sum
def draw_sum(x, theta, sigma, rng):
    """Outputs (B, O) for inputs x (B, I), weights (I, O): the sum drawn, not its terms."""
    mean = x @ theta
    std = np.sqrt(x**2 @ sigma**2)
    return mean + std * rng.standard_normal(mean.shape)

# %% gradients
def gradients(kind, x, targets, theta, log_sigma2, rng):
    """Gradients of the mean NLL for theta and log_sigma2, from one draw of the noise."""
    sigma = np.exp(log_sigma2 / 2)
    if kind == "local":
        return local_gradients(x, targets, theta, sigma, rng)
    noise = rng.standard_normal(theta.shape)  # one per weight, shared by the batch
    dw = x.T @ (softmax(x @ (theta + sigma * noise)) - targets) / len(x)
    factor = 1 + sigma / theta * noise
    d_theta = dw * factor if kind == "multiplicative" else dw
    return d_theta, dw * noise * sigma / 2

# %% Exercise 1
# Solution 1. σ² = α θ², so with α held, dL/dθ = ∂L/∂θ + ∂L/∂log σ² · 2 / θ. True draw by draw, with the same noise.
log_sigma2 = 2 + np.log(theta**2)
rows = train[:100]
first, _ = gradients("multiplicative", x[rows], targets[rows], theta, log_sigma2, np.random.default_rng(4))
second, d_log_sigma2 = gradients("additive", x[rows], targets[rows], theta, log_sigma2, np.random.default_rng(4))
print("largest difference:", np.abs(first - (second + d_log_sigma2 * 2 / theta)).max() < 1e-12)

# %% Exercise 2
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

# %% Exercise 3
# Solution 3. No: dy grows with the noise, so the variance is proportional to σ², and only the sampling of sums helps.
for la in (0, 4, 8):
    sigma, noise = np.exp((la + np.log(theta**2)) / 2), np.random.default_rng(7).standard_normal((DRAWS, *theta.shape))
    drawn = [x[rows].T @ (x[rows] @ (theta + sigma * n) - targets[rows]) / len(rows) for n in noise]
    print(f"log α = {la}: variance {np.var(drawn, axis=0).mean():.3g}")

# %% Exercise 4
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

# %% Exercise 5
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
