# Answers to the tutorial 15_leave_the_laptop: How does a network leave the laptop?
#
# They continue the notebook: run them in it.

# %% to_8_bits
def to_8_bits(values):
    """Whole numbers from -127 to 127, and their scale: values are about scale * numbers."""
    scale = np.abs(values).max() / 127
    numbers = np.rint(values / scale)
    return np.asarray(numbers, np.int32), scale

# %% scaled
def scaled(total, factor, shift=20):
    """total * factor in whole numbers: multiply, then shift, rounding to the nearest."""
    multiplier = round(factor * 2**shift)
    return (total * multiplier + (1 << (shift - 1))) >> shift

# %% Exercise 1
# Solution 1. The sums of ordinary images leave the range that the calibration has seen, and are cut off there.
dim = svd.to_integers(small, data.x_train[:500] // 2)
worse = np.mean(dim.predict_integers(data.x_test).argmax(axis=1) != data.y_test)
print(f"calibrated on dim images: {worse:.1%} wrong; before: {np.mean(wrong):.1%}")

# %% Exercise 2
# Solution 2. The scale maps the largest value to 7 instead of 127: steps are 18 times as wide.
scale = np.abs(theta).max() / 7
coarse = np.rint(theta / scale) * scale
print(
    f"largest error of a sum: {np.abs(x @ coarse - exact).max():.2f} with 4 bits, {np.abs(whole - exact).max():.3f} with 8"
)

# %% Exercise 3
# Solution 3. 784 bytes take 817 ms.
print(f"receive {784 / 960 * 1e3:.0f} ms")
for run in report["runs"][:1]:
    print(f"classify {run['avr']['cycles'] / 16e6 * 1e3:.0f} ms")
