# Answers to the tutorial 12_choose_the_dials: How do you choose the KL weight and the threshold?
#
# They continue the notebook: run them in it.

# %% choose
def choose(betas, errors, luck):
    """The largest KL weight whose error is at most one standard error above the smallest error."""
    good = errors <= errors.min() + luck
    return betas[good].max()

# %% diagnosis
diagnosis = "".join(str(number) for number in shuffled.values())

# %% Exercise 1
# Solution 1. The fewer images, the larger the standard error, and the sparser the choice.
misses = {b: nets[b, 0].predict(data.x_valid).argmax(axis=1) != data.y_valid for b in BETAS}
chosen, rng = [], np.random.default_rng(3)
for _ in range(200):
    rows_ = rng.choice(len(data.x_valid), 100, replace=False)
    few = np.array([100 * misses[b][rows_].mean() for b in BETAS])
    chosen.append(choose(BETAS, few, np.sqrt(max(few.min(), 1) * (100 - few.min()) / 100)))
print({float(b): int(np.sum(np.array(chosen) == b)) for b in BETAS}, f"; with 400 images: {beta:g}")

# %% Exercise 2
# Solution 2. The first 64 inputs are the digits.
alive = {name: values <= 3 for name, values in svd.log_alpha(patients[5]).items()}
total, kept = sum(mask.size for mask in alive.values()), sum(mask.sum() for mask in alive.values())
without, kept_there = total - 64 * 100, kept - alive["dense1"][64:].sum()
print(f"{total / kept:.0f} times with the empty inputs, {without / kept_there:.0f} times without")
assert total / kept > without / kept_there

# %% Exercise 3
# Solution 3. The smallest of several numbers is too small where it was chosen.
found = [train(1.0, seed) for seed in range(5 if FULL else 2)]
best, error = min(found, key=lambda pair: pair[1])
print(
    f"best held-out error {error:.1f} %; its test error {100 * svd.evaluate(best, data.x_test, data.y_test)['error']:.1f} %"
)
