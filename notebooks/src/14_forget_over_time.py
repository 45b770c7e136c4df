# %% [markdown]
# # How does a recurrent network forget?
#
# **What you'll do.** Put noise on a weight that is used at every step of a sequence, in two ways, and see why only one of them prunes. Then train an
# LSTM on film reviews and ask it which words, units and gates it still needs.
#
# **What you'll learn.** Why noise that is drawn anew at every step goes unnoticed, how large the KL weight of a text has to be, and what sparsity means for an
# embedding and for the gates of an LSTM.
#
# **What you'll need.** Local reparametrisation ([notebook 2](02_tame_the_noise.ipynb)) and the meaning of $N$
# ([notebook 0](00_pay_for_a_weight.ipynb)). About 25 minutes.

# %% tags=["setup"]
# From cells.py.

# %%
import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs
rng = np.random.default_rng(0)

# %% [markdown]
# ## One weight, many steps
#
# The smallest recurrent network adds up what it reads: $h_T = \sum_{t=1}^{T} w\,x_t$, the same weight $w = \theta + \sigma\varepsilon$ at every step. There are two ways to
# make it noisy. **Anew:** another $\varepsilon_t$ at every step, as a dense layer has another one for every example. **Once:** one $\varepsilon$ for the
# whole sequence.
#
# **Predict.** Let all $x_t$ be 1. What is the standard deviation of $h_T$ in each case? After 100 steps, by how much do they differ?


# %% spread_anew tags=["blank"]
def spread_anew(steps, sigma):
    """Standard deviation of the sum if each step draws its own noise."""
    return sigma * np.sqrt(steps)  # blank


# %% tags=["check"]
check(
    "spread_anew",
    lambda: np.isclose(spread_anew(1, 2.0), 2) and np.isclose(spread_anew(100, 0.5), 5),
    "Variances of independent terms add up: steps times σ².",
    "The root of that is σ times the root of the number of steps.",
)


# %% spread_once tags=["blank"]
def spread_once(steps, sigma):
    """Standard deviation of the sum if all steps share one noise."""
    return sigma * steps  # blank


# %% tags=["check"]
check(
    "spread_once",
    lambda: np.isclose(spread_once(100, 0.5), 50) and np.isclose(spread_once(3, 2.0), 6),
    "The sum is steps times (θ + σ ε).",
    "So its standard deviation is steps times σ.",
)

# %% tags=["cover"]
theta, sigma, T = 1.0, 0.5, 100
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
steps = np.arange(1, T + 1)
for ax, spread, title in zip(
    axes, (spread_anew, spread_once), ("noise anew at every step", "one noise for the sequence"), strict=True
):
    for _ in range(12):
        noise = rng.standard_normal(T) if spread is spread_anew else rng.standard_normal()
        ax.plot(
            steps, np.cumsum(np.ones(T) * (theta + sigma * noise)), color=COLOURS["train"], alpha=0.5, linewidth=1.2
        )
    band = 2 * np.array([spread(t, sigma) for t in steps])
    ax.fill_between(
        steps, steps - band, steps + band, color=COLOURS["pruned"], alpha=0.5, label="± 2 standard deviations"
    )
    ax.set(xlabel="step", title=title)
axes[0].set_ylabel("state h")
axes[0].legend(loc="upper left")
plt.show()

# %%
draws = 4000
anew = (theta + sigma * rng.standard_normal((draws, T))).sum(axis=1)
once = T * (theta + sigma * rng.standard_normal(draws))
print(
    f"after {T} steps: anew ± {anew.std():.1f} ({spread_anew(T, sigma):.1f}), once ± {once.std():.1f} ({spread_once(T, sigma):.1f})"
)
assert abs(anew.std() / spread_anew(T, sigma) - 1) < 0.1 and abs(once.std() / spread_once(T, sigma) - 1) < 0.1

# %% [markdown]
# Beside the mean, which is 100, noise drawn anew hardly matters: it averages out. The data would hardly notice it, so the KL would raise it without resistance, and
# $\log\alpha$ would say "pruned" of weights that the network needs. So a recurrent layer must **sample the weights themselves, once, and use the same sample at
# every step** (Chirkova, Lobacheva and Vetrov 2018). The price is gradient noise that the whole batch shares. [Notebook 2](02_tame_the_noise.ipynb) avoids it for dense layers; here we
# have to accept it, or soften it: with `noise="sequence"` the package gives each sequence random signs of its own ([guide](../docs/guide/recurrent.md)).
#
# ## How much KL for a text?
#
# The KL is paid once for all the data. Say the loss is a mean over *letters*, and a batch has rows of $T = 50$ letters. If the program divides the KL by the
# number of *rows*, each letter pays fifty times its share.


# %% bound_weight tags=["blank"]
def bound_weight(letters_per_row):
    """The KL weight that makes a loss per letter with KL / rows the evidence lower bound."""
    return 1 / letters_per_row  # blank


# %% tags=["check"]
check(
    "bound_weight",
    lambda: np.isclose(bound_weight(50), 0.02) and np.isclose(bound_weight(4), 0.25),
    "The bound needs KL / (number of letters).",
    "letters = rows * letters_per_row, so KL / letters = (KL / rows) / letters_per_row.",
)

# %%
layers = svd.VariationalLSTM("abcdefgh", 16, tokens=True), svd.VariationalDense(16, 8, log_sigma2=-6)
speller = svd.Sequential(*layers, input_shape=(50,), backend="numpy", dtype="float64")
rows = rng.integers(0, 8, (4, 50))
nll, both = (speller.loss(rows, rows, n_train=1000, kl_weight=weight) for weight in (0.0, bound_weight(50)))
print(f"per letter: NLL {nll:.3f} (log 8 = {np.log(8):.3f}), KL {both - nll:.3f} nats with 1,000 rows of 50 letters")
assert abs(nll - np.log(8)) < 0.1  # a mean over letters, not a sum

# %% [markdown]
# For labelled sentences there is one label a row, and the weight of the bound is 1.
#
# ## Film reviews
#
# An embedding turns each word into 16 numbers, an LSTM with 16 units reads them, and a dense layer judges the last state. All weights are noisy, also those of the
# embedding. The reviews are made up, so that we know which words matter.
#
# **Predict.** The vocabulary has 63 words. Which of them does the network need to tell good reviews from bad ones?

# %%
EPOCHS = 30 if FULL else 2
shape = {"features": 16, "units": 16, "kl_weight": 1 / 0.7}  # times 0.7, that of the recipe: the bound's
result = svd.train_sentiment(dataset="reviews", epochs=EPOCHS, **shape, progress=False)
print(f"{100 * result.test_error:.0f} % wrong, {result.compression:.0f} times fewer weights")
for what, (living, whole) in result.live().items():
    print(f"{what:24} {living:3} of {whole}")

# %%
vocabulary = np.array(result.data.vocabulary)
embedding = result.model.parameters["embedding1.theta"]
alive = svd.log_alpha(result.model)["embedding1"] <= 3
size = np.abs(embedding * alive).sum(axis=1)
print("strongest:", ", ".join(vocabulary[np.argsort(-size)[:10]]))
print("gone:", ", ".join(word for word in vocabulary[2:] if word not in result.words()))

# %%
top = np.argsort(-size)[:40]
fig, ax = plt.subplots(figsize=(8.6, 3.4))
image = np.where(alive[top], embedding[top], np.nan).T
limit = np.nanmax(np.abs(image)) if np.isfinite(image).any() else 1
fig.colorbar(ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"), label="θ (grey: pruned)")
ax.set_facecolor(COLOURS["dead"])
ax.set_xticks(range(len(top)), vocabulary[top], rotation=90, fontsize=8)
ax.set(ylabel="number of the embedding", title="The embedding after training, strongest words first")
ax.grid(visible=False)
plt.show()

# %% [markdown]
# The words at the left carry a judgement; those that are gone, or have few numbers left, are the ones that every review has. Columns matter as well as rows: a
# number of the embedding that no word uses can be struck out altogether.
#
# ## Gates
#
# An LSTM unit has three gates and a candidate, each with weights of its own: 16 units make 64 of them. A gate that has lost its weights is a constant, its bias.
# It need not be computed any more.

# %%
recurrent = svd.log_alpha(result.model)["lstm1"] <= 3
kinds = ("input", "forget", "candidate", "output")
per_gate = recurrent.reshape(-1, 4, 16).sum(axis=0)  # weights left of each gate of each unit
fig, ax = plt.subplots(figsize=(7.6, 2.4))
fig.colorbar(ax.imshow(per_gate, cmap="cividis", aspect="auto"), label="weights left (of 32)")
for kind, unit in np.ndindex(per_gate.shape):
    bright = per_gate[kind, unit] > per_gate.max() / 2
    ax.text(
        unit, kind, per_gate[kind, unit], ha="center", va="center", fontsize=8, color="black" if bright else "white"
    )
ax.set_yticks(range(4), kinds)
ax.set(xlabel="unit", xticks=[], title="What is left of the gates")
ax.grid(visible=False)
plt.show()
print(f"gates without a weight: {np.sum(per_gate == 0)} of {per_gate.size}")
if FULL:
    assert per_gate[[0, 1, 3]].sum() < 0.1 * per_gate.sum()

# %% [markdown]
# What is left sits in the candidates. The three kinds of gates have hardly a weight: they are constants, and the LSTM has turned itself into a weighted sum of
# words. That is enough for most of these reviews, and cheap.
#
# ## The same with the package
#
# `compress` strikes out what is dead and reads one word at a time, keeping its state. Feed it a review:

# %%
small = svd.compress(result.model)
review = ["the", "film", "is", "not", "boring"]
scores = []
small.reset()
for word in review:
    scores.append(small.step(result.data.vocabulary.index(word)))
balance = [float(score[1] - score[0]) for score in scores]
print(" ".join(f"{word} ({value:+.1f})" for word, value in zip(review, balance, strict=True)))
print(f"{small.sizes()['weights']:,} weights are stored")

# %% [markdown]
# (Positive numbers favour the second class. A sum of words cannot turn "boring" round because "not" stands before it.)
#
# ## Exercises
#
# **Exercise 1.** Let the state decay, $h_t = \lambda h_{t-1} + w x_t$ with $x_t = 1$, as a forget gate does. How large is the ratio of the two spreads for $\lambda = 0.5, 0.9, 0.99$ after
# many steps? (Sum the geometric series of the weights $\lambda^k$, or of their squares.)
#
# **Exercise 2.** How many columns of the embedding are used by no word (`alive` says)? How many bytes does striking them out save? (A column has a number for each word, 64 weights
# of the LSTM read it, and a float32 has 4 bytes.)
#
# **Exercise 3.** A text has 900,000 letters in rows of 50. Which KL weight makes a loss per letter the bound if the KL is divided by rows, by letters, or not at all?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. Anew: sigma / sqrt(1 - λ²). Once: sigma / (1 - λ). The longer the memory, the more it matters.
for decay in (0.5, 0.9, 0.99):
    ratio = np.sqrt(1 - decay**2) / (1 - decay)
    print(f"λ = {decay}: once is {ratio:.1f} times as wide as anew")
powers = 0.9 ** np.arange(200)
assert np.isclose(powers.sum() / np.sqrt((powers**2).sum()), np.sqrt(1 - 0.81) / 0.1, rtol=1e-3)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. Each column has a number for every word, and the LSTM has 64 weights that read it.
unused = ~alive.any(axis=0)
print(f"{unused.sum()} of 16 columns; {4 * unused.sum() * (len(vocabulary) + 64):,} bytes of float32")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. 18,000 rows.
for divided_by, weight in (("rows", 1 / 50), ("letters", 1.0), ("nothing", 1 / 900_000)):
    print(f"KL divided by {divided_by}: weight {weight:.2g}")

# %% [markdown]
# ## In practice
#
# Sample weights, not outputs, wherever a weight is used again and the uses add up. Say what the loss is a mean over. Shorten long gradients
# (`TrainConfig(clip_norm=...)`). Look at words, units and gates, not only at single weights: those are what can be struck out.
#
# ## Further reading
#
# - Chirkova, Lobacheva, Vetrov: [Bayesian Compression for Natural Language Processing](https://arxiv.org/abs/1810.10927), 2018.
# - Gal, Ghahramani: [A Theoretically Grounded Application of Dropout in Recurrent Neural Networks](https://arxiv.org/abs/1512.05287), 2016: one mask for the sequence.
# - The [guide](../docs/guide/text.md) on text, and `svd_numpy/micro/lstm.py`: [an LSTM with these ideas in one file](../svd_numpy/micro/lstm.py).
