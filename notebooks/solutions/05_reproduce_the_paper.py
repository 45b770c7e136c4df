# Answers to the tutorial 05_reproduce_the_paper: Does it reproduce the paper?
#
# They continue the notebook: run them in it.

# %% standard_error
def standard_error(percent, n=10_000):
    """Of an error rate in % measured on n images, in percentage points."""
    return np.sqrt(percent * (100 - percent) / n)

# %% count
def count(threshold):
    """Sparsity of each layer, and compression, at a threshold."""
    alive = {name: log_alpha[name] <= threshold for name in layers}
    kept = sum(a.sum() for a in alive.values())
    total = sum(a.size for a in alive.values())
    return {name: 1 - a.mean() for name, a in alive.items()}, total / max(kept, 1)

# %% Exercise 1
# Solution 1. Round to ever more decimals; the worst case is all four off by half a digit in the same direction.
for decimals in range(1, 5):
    halves = [0.5 * 10.0**-decimals] * 4
    low, high = (compression(SIZES["LeNet-5"], shift, halves) for shift in (-1, 1))
    print(
        f"{decimals} decimals: {low:6.1f} to {high:6.1f}, {(high - low) / 2 / compression(SIZES['LeNet-5']):.1%} either way"
    )
print("Three decimals, since one layer has 400,000 weights: half of 0.01 % of it are 20, of 1,715 that are left.")

# %% Exercise 2
# Solution 2. The variance of the difference is the sum of two variances; it must be (0.1 / 2)^2.
n = (1.92 * 98.08 + 1.82 * 98.18) / (0.1 / 2) ** 2
print(f"{n:,.0f} images for each network")
assert 140_000 < n < 150_000

# %% Exercise 3
# Solution 3. The smallest of many measurements is too small, also where all measure the same thing.
print(
    f"last epoch {errors[-1]:.2%}, best epoch {errors.min():.2%}: better by {100 * (errors[-1] - errors.min()):.2f} points"
)
many = rng.binomial(10_000, 0.0192, (10_000, 20)).min(axis=1) / 100
print(f"smallest of 20 independent measurements of a true 1.92 %: {many.mean():.2f} % on average")
assert many.mean() < 1.92 - standard_error(1.92)
# Epochs of one run are not independent, so the flattery is smaller than that, but it always has the same sign.

# %% Exercise 4
# Solution 4. 410 biases, none of them pruned.
weights, biases = 266_200, 410
for name, ratio in (("published", 68), ("yours", ours.compression)):
    print(f"{name:9} {ratio:.0f}x without biases, {(weights + biases) / (weights / ratio + biases):.0f}x with them")

# %% Exercise 5
# Solution 5. A unit lives if something comes in and something goes out. (One pass; what it cuts off could be cut off in turn.)
alive = [value <= 3 for value in svd.log_alpha(sparse).values()]
one, two = (alive[n].any(axis=0) & alive[n + 1].any(axis=1) for n in range(2))
left = 784 * one.sum() + one.sum() * two.sum() + two.sum() * 10
print(f"784-{one.sum()}-{two.sum()}-10: {weights / left:.1f} times fewer weights, all of them stored")
