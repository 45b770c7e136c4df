# Answers to the tutorial 14_forget_over_time: How does a recurrent network forget?
#
# They continue the notebook: run them in it.

# %% spread_anew
def spread_anew(steps, sigma):
    """Standard deviation of the sum if each step draws its own noise."""
    return sigma * np.sqrt(steps)

# %% spread_once
def spread_once(steps, sigma):
    """Standard deviation of the sum if all steps share one noise."""
    return sigma * steps

# %% bound_weight
def bound_weight(letters_per_row):
    """The KL weight that makes a loss per letter with KL / rows the evidence lower bound."""
    return 1 / letters_per_row

# %% Exercise 1
# Solution 1. Anew: sigma / sqrt(1 - λ²). Once: sigma / (1 - λ). The longer the memory, the more it matters.
for decay in (0.5, 0.9, 0.99):
    ratio = np.sqrt(1 - decay**2) / (1 - decay)
    print(f"λ = {decay}: once is {ratio:.1f} times as wide as anew")
powers = 0.9 ** np.arange(200)
assert np.isclose(powers.sum() / np.sqrt((powers**2).sum()), np.sqrt(1 - 0.81) / 0.1, rtol=1e-3)

# %% Exercise 2
# Solution 2. Each column has a number for every word, and the LSTM has 64 weights that read it.
unused = ~alive.any(axis=0)
print(f"{unused.sum()} of 16 columns; {4 * unused.sum() * (len(vocabulary) + 64):,} bytes of float32")

# %% Exercise 3
# Solution 3. 18,000 rows.
for divided_by, weight in (("rows", 1 / 50), ("letters", 1.0), ("nothing", 1 / 900_000)):
    print(f"KL divided by {divided_by}: weight {weight:.2g}")
