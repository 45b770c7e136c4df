# %% [markdown]
# # How does a network leave the laptop?
#
# **What you'll do.** Turn a pruned network into whole numbers by hand, then into C for a microcontroller, compile it, and compare every score; and write a web
# page that holds a network and needs nothing else.
#
# **What you'll learn.** How floats become 8-bit numbers with one multiplication and a shift, where flash and RAM go, how to test code on another machine, and
# what to keep in mind when a network runs where you cannot see it.
#
# **What you'll need.** NumPy, binary numbers; bytes and bits of weights are in [notebook 9](09_count_the_bytes.ipynb). About 25 minutes. A C compiler helps.

# %% tags=["setup"]
# From cells.py.

# %% tags=["results"]
import json
import shutil
import subprocess
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import svd_numpy as svd
from svd_numpy.plots import COLOURS, STYLE

plt.rcParams.update(STYLE)
FULL = os.environ.get("SVD_NUMPY_NOTEBOOKS") != "short"  # tests train for fewer epochs
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## A network to ship

# %%
data = svd.load("digits")
EPOCHS = 40 if FULL else 8
model = svd.Sequential(svd.VariationalDense(784, 100), svd.ReLU(), svd.VariationalDense(100, 10))
kl = ((EPOCHS / 8, 0), (EPOCHS / 2, 1))
svd.fit(model, data, svd.TrainConfig(epochs=EPOCHS, batch_size=50, lr=3e-3, kl_schedule=kl), progress=False)
small = svd.compress(model)
print(f"test error {svd.evaluate(model, data.x_test, data.y_test)['error']:.1%}")
print(small)

# %% [markdown]
# ## Whole numbers
#
# A small chip has no floats; each would be dozens of instructions. So write weights and inputs as 8-bit integers times a scale:
#
# $$w \approx s_w\,q_w, \qquad x \approx s_x\,q_x, \qquad \sum x_iw_i \approx s_x s_w \sum q_{x,i}\,q_{w,i} .$$
#
# The sum on the right is arithmetic of whole numbers, exact in 32 bits. The scale $s$ maps the largest absolute value to 127.


# %% to_8_bits tags=["blank"]
def to_8_bits(values):
    """Whole numbers from -127 to 127, and their scale: values are about scale * numbers."""
    scale = np.abs(values).max() / 127
    numbers = np.rint(values / scale)  # blank
    return np.asarray(numbers, np.int32), scale


# %% tags=["check"]
check(
    "to_8_bits",
    lambda: to_8_bits(np.array([0.8, -2.0, 0.2]))[0].tolist() == [51, -127, 13],
    "How many scales is a value? Round to the nearest whole number.",
    "np.rint(values / scale)",
)

# %%
theta = model.parameters["dense1.theta"] * (svd.log_alpha(model)["dense1"] <= 3)
x = (data.x_test[:50] / 255).astype(np.float32)
(weights, weight_scale), (inputs, input_scale) = to_8_bits(theta), to_8_bits(x)
exact, whole = x @ theta, inputs @ weights * (weight_scale * input_scale)
print(f"largest sum {np.abs(exact).max():.2f}, largest error of the whole numbers {np.abs(exact - whole).max():.3f}")
print(f"largest whole sum: {np.abs(inputs @ weights).max():,}; 32 bits hold {2**31 - 1:,}")
assert np.abs(exact - whole).max() < 0.05 * np.abs(exact).max()

# %% [markdown]
# The next layer wants 8-bit inputs again, so each sum must be multiplied by a small number such as 0.00137. Without floats? Multiply by a whole number and drop bits:
# $0.00137 \approx 1437 / 2^{20}$, and division by $2^{20}$ is a shift to the right by 20 places.
#
# **Predict.** How large is the error of such a scale if the whole number has about 11 bits: a tenth, a thousandth, a millionth?


# %% scaled tags=["blank"]
def scaled(total, factor, shift=20):
    """total * factor in whole numbers: multiply, then shift, rounding to the nearest."""
    multiplier = round(factor * 2**shift)  # blank
    return (total * multiplier + (1 << (shift - 1))) >> shift


# %% tags=["check"]
check(
    "scaled",
    lambda: scaled(1_000_000, 0.00137) == 1370 and scaled(-1000, 0.5, 10) == -500,
    "The multiplier is the factor times 2 to the power of shift, as a whole number.",
    "round(factor * 2**shift)",
)

# %%
factors = np.random.default_rng(0).uniform(0.0005, 0.002, 1000)
bits = np.arange(12, 25)
worst = [max(abs(round(f * 2**b) / 2**b / f - 1) for f in factors) for b in bits]
fig, ax = plt.subplots(figsize=(7, 2.8))
ax.semilogy(bits, worst, "o-", color=COLOURS["test"])
ax.axhline(1 / 254, color=COLOURS["ink"], linestyle="--", label="half a step of 8 bits")
ax.set(xlabel="shift (bits)", ylabel="largest relative error", title="A shift and a whole number replace a float")
ax.legend()
plt.show()
assert worst[list(bits).index(20)] < 1 / 254

# %% [markdown]
# Far below the rounding of the 8 bits themselves. The package chooses multiplier and shift for each layer, from a few hundred **calibration** images, which show how large
# the sums get. `to_integers` is a twin in NumPy of the C code to come.

# %%
twin = svd.to_integers(small, data.x_train[:500])
floats, integers = small.predict(data.x_test), twin.predict_integers(data.x_test)
same = np.mean(floats.argmax(axis=1) == integers.argmax(axis=1))
print(f"the same class for {same:.1%} of the test images")
for what, scores in (("floats", floats), ("whole numbers", integers)):
    print(f"{what:14} test error {np.mean(scores.argmax(axis=1) != data.y_test):.1%}")
assert same > 0.95

# %% [markdown]
# ## C
#
# `export_c` writes a folder: the network as C99 without library, heap or floats, and a `main.c` that checks ten images with the scores they must have.

# %%
code = svd.export_c(small, folder / "digits_net", data.x_train[:500], examples=data.x_test)
for path in sorted(code.parent.iterdir()):
    print(f"{path.name:14} {path.stat().st_size:7,} bytes of text")
print("\n".join(code.with_suffix(".h").read_text(encoding="utf-8").splitlines()[:12]))

# %%
compiler = shutil.which("cc") or shutil.which("gcc")
if compiler:
    work = [compiler, "-Os", "-o", str(code.parent / "test"), *map(str, sorted(code.parent.glob("*.c")))]
    subprocess.run(work, check=True, cwd=code.parent)
    done = subprocess.run([str(code.parent / "test")], capture_output=True, text=True, check=True)
    print(done.stdout.strip().splitlines()[-1])
else:
    print("no C compiler here; `make` in the folder does the same elsewhere")

# %% [markdown]
# The program prints its verdict on the ten images. Take the same `main.c` to the chip: if the scores agree there, too, then the compiler, the word sizes and the memory
# are all right. **A test that travels with the code is worth more than any document.**
#
# How large is all this on real chips? The repository's figures for its two default networks follow.
#
# **Predict.** The convolutional network, LeNet-5, has half as many weights as the dense one. Which takes more time per image, and why?

# %% tags=["results", "cover"]
path = pathlib.Path("..", "benchmarks", "results", "c_export.json")
report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": [], "peers": []}
chips = {(run["arch"], chip): run[chip] for run in report["runs"] for chip in ("cortex-m3", "avr")}
fig, axes = plt.subplots(1, 2, figsize=(8.4, 2.9), sharey=True)
names = [f"{arch}, {'ATmega328P' if chip == 'avr' else 'Cortex-M3'}" for arch, chip in chips]
for ax, key, limit, colour in ((axes[0], "flash", 32, "train"), (axes[1], "ram", 2, "test")):
    bars = ax.barh(names, [size[key] / 1024 for size in chips.values()], color=COLOURS[colour])
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.axvline(limit, color=COLOURS["ink"], linestyle="--", label=f"an ATmega328P has {limit}")
    ax.set(
        xlabel="KiB",
        title={"flash": "flash: program and weights", "ram": "RAM: inputs and sums"}[key],
        xlim=(0, 1.3 * limit),
    )
    ax.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, -0.2))
axes[0].invert_yaxis()
plt.show()

# %% tags=["results"]
for run in report["runs"]:
    speed = run["avr"]["cycles"] / 16e6 * 1e3
    print(
        f"{run['arch']}: {run['weights']:,} weights, error {run['error']:.2f} % as C, {run['float_error']:.2f} % in floats,",
        end=" ",
    )
    print(f"{speed:.0f} ms per image at 16 MHz")
    assert run["avr"]["flash"] < 32 * 1024 and run["avr"]["ram"] < 2048

# %% [markdown]
# Both fit on an eight-bit chip with 2 KiB of RAM. (A LeNet-300-100 that is not pruned has 266,200 weights: in 8 bits each, eight times the chip's flash.) LeNet-5 has fewer weights, but
# a filter weight is used at hundreds of positions, so it takes forty times as long.
#
# ## A page
#
# `export_html` writes one file with network, code and pictures: draw a digit and see which weights light up. It opens from disk, and no request leaves it.

# %%
page = svd.export_html(model, folder / "digits.html", data.x_test, data.y_test)
text = page.read_text(encoding="utf-8")
print(f"{page.stat().st_size:,} bytes; requests to the network: {text.count('fetch(') + text.count('XMLHttpRequest')}")
assert "fetch(" not in text

# %% [markdown]
# (One such page, for a network trained on MNIST, is [`docs/demo.html`](../docs/demo.html).)
#
# A network that runs on a chip sees other images than yours: another camera, another pen. There is little that you can watch there. But you have the integer scores:
# a small gap between the best two says "unsure". How good a warning is it?

# %%
sorted_scores = np.sort(integers, axis=1)
gap = sorted_scores[:, -1] - sorted_scores[:, -2]
wrong = integers.argmax(axis=1) != data.y_test
order = np.argsort(gap)
shares = np.arange(1, len(gap) + 1) / len(gap)
found = np.cumsum(wrong[order]) / max(wrong.sum(), 1)

# %%
fig, ax = plt.subplots(figsize=(7, 2.9))
ax.plot(100 * shares, 100 * found, color=COLOURS["test"], linewidth=2.2, label="smallest gap first")
ax.plot([0, 100], [0, 100], "--", color=COLOURS["ink"], label="by chance")
ax.set(
    xlabel="images handed to a human (%)",
    ylabel="errors among them (%)",
    title="A gap between whole numbers is a warning",
)
ax.legend()
plt.show()
print(f"{wrong.sum()} errors; the tenth of the images with the smallest gaps holds {found[len(gap) // 10]:.0%} of them")

# %% [markdown]
# ## The same with the package
#
# On the command line: `svd-numpy export-c RUN` and `svd-numpy demo RUN` for a finished run, and `svd-numpy card RUN` for a *model card*, which says what the network was trained on,
# how it was chosen, and what it should not be used for. Ship the card with the code.
#
# ## Exercises
#
# **Exercise 1.** Calibrate with images that are half as bright. What happens to the error of the whole numbers on ordinary images? (`svd.to_integers` takes the images to calibrate with.)
#
# **Exercise 2.** Give the weights 4 bits instead of 8, numbers from −7 to 7. How large is the error of the sums, compared with `exact`?
#
# **Exercise 3.** An image comes by radio, byte by byte, at 9,600 baud (960 bytes a second). What takes longer for LeNet-300-100 on the ATmega328P: to receive
# an image or to classify it?

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 1. The sums of ordinary images leave the range that the calibration has seen, and are cut off there.
dim = svd.to_integers(small, data.x_train[:500] // 2)
worse = np.mean(dim.predict_integers(data.x_test).argmax(axis=1) != data.y_test)
print(f"calibrated on dim images: {worse:.1%} wrong; before: {np.mean(wrong):.1%}")

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 2. The scale maps the largest value to 7 instead of 127: steps are 18 times as wide.
scale = np.abs(theta).max() / 7
coarse = np.rint(theta / scale) * scale
print(
    f"largest error of a sum: {np.abs(x @ coarse - exact).max():.2f} with 4 bits, {np.abs(whole - exact).max():.3f} with 8"
)

# %% jupyter={"source_hidden": true} tags=["solution"]
# Solution 3. 784 bytes take 817 ms.
print(f"receive {784 / 960 * 1e3:.0f} ms")
for run in report["runs"][:1]:
    print(f"classify {run['avr']['cycles'] / 16e6 * 1e3:.0f} ms")

# %% [markdown]
# ## In practice
#
# Calibrate with images like those to come. Let a test travel with the code. Count flash and RAM with the compiler for the chip, not with arithmetic. Keep the trained network beside
# the exported one: the exported one has no noise left, and no way back.
#
# ## Further reading
#
# - [Put it on a chip or a page](../docs/guide/devices.md), in the guide; [all figures of the C code](../benchmarks/results/c_export.md).
# - Jacob and others: [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference](https://arxiv.org/abs/1712.05877), 2018.
# - Mitchell and others: [Model Cards for Model Reporting](https://arxiv.org/abs/1810.03993), 2019.
