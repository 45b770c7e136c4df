# Answers to the tutorial 13_prune_whole_units: When do zeros make a network faster?
#
# They continue the notebook: run them in it.

# %% gated
def gated(x, mean, log_sigma2, noise):
    """Inputs (B, I) times their gates z = mean + sigma * noise, drawn for each example."""
    sigma = np.exp(log_sigma2 / 2)
    return x * (mean + sigma * noise)

# %% fold
def fold(weights, factors):
    """Weights (I, O) that do without the gates of their inputs, factors (I,)."""
    return factors[:, None] * weights

# %% Exercise 1
# Solution 1. The price at log α = -4, from notebook 1, times how many there are, over N.
price = float(svd.kl_divergence(np.ones(1), np.array([-4.0]), "log_uniform")[0])
for what, count in (("gates", 884), ("weights", 79_400)):
    print(f"{count:6,} {what}: {count * price / 1437:6.2f} nats per image")

# %% Exercise 2
# Solution 2. Hidden units: a heap near -4 and a thin tail, in which the threshold lies. Inputs: a pile on the right, of
# pixels that are nearly always 0, and one broad heap that the threshold cuts. How many inputs are open depends on it.
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6))
for ax, gate in zip(axes, gates, strict=True):
    ax.hist(np.clip(gate.scores(), -12, 12), 49, color=COLOURS["kept"])
    ax.axvline(0, color=COLOURS["test"], linestyle="--")
    ax.set(title=gate.name, xlabel="score", yscale="log")
plt.show()

# %% Exercise 3
# Solution 3. A unit stays as long as one of its weights does, so the matrices shrink far less than the number of weights.
living = pruned[0].any(axis=0) & pruned[1].any(axis=1)
read = pruned[0][:, living].any(axis=1)
print(
    f"{read.sum()} x {living.sum()} and {living.sum()} x 10: {read.sum() * living.sum() + 10 * living.sum():,} numbers"
)
