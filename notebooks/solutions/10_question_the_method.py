# Answers to the tutorial 10_question_the_method: Is this Bayesian, and when should you not use it?
#
# They continue the notebook: run them in it.

# %% needed_z
def needed_z(s, prior, beta=1.0):
    """The estimate z, in standard errors, for which s is the optimum."""
    if prior == "ard":
        return np.sqrt(beta * (1 + s))
    t = np.exp(-micro.K2) * s**micro.K3
    v = 1 / (1 + s) + 2 * micro.K1 * micro.K3 * np.exp(-micro.K2) * s ** (micro.K3 - 1) / (1 + t) ** 2
    return (1 + s) * np.sqrt(beta * v)

# %% Exercise 1
# Solution 1. At both. Large weights explain "yes" perfectly, so nothing tames them either: L(e^u) → 1 for u → ∞.
for u in (-20.0, 0.0, 20.0):
    both_signs = sum(np.exp(-3 * np.logaddexp(0, -w)) for w in (np.exp(u), -np.exp(u)))
    print(f"log |w| = {u:3.0f}: integrand {both_signs:.3f}")

# %% Exercise 2
# Solution 2. The rule is |z| > 1.06 √β, so β = (z / 1.06)².
for rule in ("a 5 % test", "BIC, 60,000 images"):
    print(f"{rule}: KL weight {(rules[rule] / limit) ** 2:.1f}")
print(f"KL weight 2.2: |z| > {limit * 2.2**0.5:.2f}")
assert np.isclose(needed_z(np.exp(-3.0), "log_uniform", 2.2), limit * 2.2**0.5)

# %% Exercise 3
# Solution 3. The share does not fall: more data do not make this penalty discard the lucky part of the noise.
four_times = micro.make_net(30, 10)
train(four_times, rng.normal(size=(2000, 30)), rng.integers(0, 10, 2000), 1.0, long, batch=200)
print(f"{micro.kept(four_times[0]).mean():.0%} kept, before {micro.kept(shallow[0]).mean():.0%}")
if FULL:
    assert micro.kept(four_times[0]).mean() > 0.8 * micro.kept(shallow[0]).mean()

# %% Exercise 4
# Solution 4. Not within this time: it forgets, but slowly, and is far worse than nothing by its own objective. A network
# that the data hold in place is a long way from the empty one, and gradient descent has to walk it.
accuracy, kept, nll, kl = train(nets["plain, random labels"], x, dice, 1.0)[-1]
print(f"{accuracy:.0%} right, {kept:.0f} weights left, objective {nll + kl:.2f}; the empty network has {log(10):.2f}")
if FULL:
    assert nll + kl > log(10) and kept > 20

# %% Exercise 5
# Solution 5. The first layer has most of the weights and the smallest ones, the last layer few that all matter.
for factor in factors[:3]:
    equal = magnitude.copy()
    for layer in equal.variational_layers:
        size = np.abs(layer.theta)
        layer.theta[size < np.quantile(size, 1 - 1 / factor)] = 0
    print(
        f"{factor} times fewer: all layers alike {error(equal):.1f} %, together {error(prune(magnitude, 1 / factor, 0)):.1f} %"
    )

# %% Exercise 6
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
