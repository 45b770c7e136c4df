# Answers to the tutorial 03_watch_weights_die: When do weights die?
#
# They continue the notebook: run them in it.

# %% alive
log_alpha = log_sigma2 - np.log(theta**2)
alive = log_alpha <= 3

# %% revived
revived = (alive[1:] & ~alive[:-1]).any(axis=0)

# %% Exercise 1
# Solution 1. A unit lives if something comes in and something goes out.
outgoing = snapshots[-1][1][1] - np.log(snapshots[-1][1][0] ** 2) <= 3
living = alive[-1].any(axis=0) & outgoing.any(axis=1)
print(f"{living.sum()} of 100 hidden units live")

# %% Exercise 2
# Solution 2. Search backwards for the last epoch that is further off.
far = np.nonzero(np.abs(errors - errors[-1]) > 0.01)[0]
print(f"from epoch {far[-1] + 2 if len(far) else 1} on")

# %% Exercise 3
# Solution 3. Sparser, and worse. It is no longer the evidence lower bound: a KL weight other than 1 is a tempered objective.
_, sparsity, error = run(0, ((0, 0.0), (EPOCHS / 3, 5.0)))
print(f"KL weight 5: {sparsity[-1]:.1%} pruned, test error {error[-1]:.1%}")
if FULL:
    assert sparsity[-1] > runs["KL warm-up"][0][1][-1] and error[-1] > runs["KL warm-up"][0][2][-1]

# %% Exercise 4
# Solution 4. Half of the images choose, the other half report. With 180 images, one error is more than half a percentage point.
choose, report = test[:180], test[180:]
allowed = error_at(3.0, choose)[0] + 0.005
chosen = min(t for t in thresholds if error_at(t, choose)[0] <= allowed)
for t in (3.0, chosen):
    (error, share), own = error_at(t, report), error_at(t, choose)[0]
    print(f"threshold {t:4}: error {error:.1%} ({own:.1%} where it was chosen), {1 - share:.1%} of the weights left")
assert chosen <= 3.0

# %% Exercise 5
# Solution 5. The survivors of the last epoch that were "dead" after epoch k.
for k in (5, 10, 20, 30):
    if k <= EPOCHS:
        print(f"cut after epoch {k:2}: {(alive[-1] & ~alive[k - 1]).sum() / alive[-1].sum():.0%} of the survivors lost")
# Others might have taken their places, but those that the data would choose in the end are not all known early.
