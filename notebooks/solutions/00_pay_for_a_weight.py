# Answers to the tutorial 00_pay_for_a_weight: Why pay for a weight?
#
# They continue the notebook: run them in it.

# %% kl_normal
def kl_normal(m, s):
    """KL of N(m, s²) from N(0, 1), in nats."""
    return 0.5 * (m**2 + s**2 - 1) - np.log(s)

# %% posterior_std
def posterior_std(beta):
    """Width of the best q when the KL is weighted by beta."""
    return (1 + np.sum(x**2) / beta) ** -0.5

# %% alpha_of
def alpha_of(p):
    """Variance of a factor that is 0 with probability p and 1 / (1 - p) otherwise."""
    return p / (1 - p)

# %% Exercise 1
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

# %% Exercise 2
# Solution 2. The evidence charges for the freedom of the weight: about half the logarithm of the precision that is gained.
without = norm.logpdf(y).sum()
print(f"here: log evidence {log_evidence:.2f} with the weight, {without:.2f} without")
covariance = np.eye(N) + np.outer(x, x)
for truth in (0.0, 0.25, 0.5, 1.0):
    drawn = truth * x + rng.normal(size=(2000, N))
    gain = multivariate_normal(np.zeros(N), covariance).logpdf(drawn) - norm.logpdf(drawn).sum(axis=1)
    print(f"true weight {truth}: the weight gains {gain.mean():5.2f} nats on average")

# %% Exercise 3
# Solution 3. The gap is a KL, and a KL is never negative.
gaps = [log_evidence - bound(m, s) for m, s in zip(rng.normal(size=1000), rng.uniform(0.05, 3, 1000), strict=True)]
print(f"smallest of 1,000 gaps: {min(gaps):.4f}")
assert min(gaps) >= 0
