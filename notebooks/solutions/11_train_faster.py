# Answers to the tutorial 11_train_faster: Why training got faster
#
# They continue the notebook: run them in it.

# %% folded_bias
def folded_bias(bias1, weights2, bias2, constant):
    """The bias of the second layer once the constant units are gone."""
    values = np.maximum(bias1[constant], 0)
    return bias2 + values @ weights2[constant]

# %% list_product
def list_product(x, listed, n_out):
    """x @ matrix, by walking along the list."""
    y = np.zeros((len(x), n_out), x.dtype)
    for i, j, w in zip(*listed, strict=True):
        y[:, j] += x[:, i] * w
    return y

# %% Exercise 1
# Solution 1. The sum of x² σ² over the weights that go, beside the whole.
sigma2 = np.exp(net.parameters["dense1.log_sigma2"])
gone = svd.log_alpha(net)["dense1"] > 5
before, lost = images**2 @ sigma2, images**2 @ (sigma2 * gone)
print(f"of the variance of an average unit, {np.mean(lost) / np.mean(before):.0%} goes")
assert np.all(lost <= before * (1 + 1e-5))

# %% Exercise 2
# Solution 2. 2.5 n = I O, so n / (I O) = 0.4. One weight on a list takes as long as two and a half in a matrix.
print(f"density {1 / 2.5:.0%}")

# %% Exercise 3
# Solution 3. Means over the epochs; the early ones, at full price, set the limit.
cost = 0.1 + 0.9 * share
print(f"{1 / cost.mean():.1f} times as fast; if dead weights cost nothing at all, {1 / share.mean():.1f} times")
print("Ten times is out of reach, whatever a late step costs, unless weights die earlier: look at the early epochs.")
