# Answers to the tutorial 09_count_the_bytes: How many bytes is 68×?
#
# They continue the notebook: run them in it.

# %% csr_bytes
def csr_bytes(kept, rows, index_bytes, value_bytes=4):
    """Values, column indices, and 4-byte row pointers, of which a matrix has one more than rows."""
    return kept * (value_bytes + index_bytes) + 4 * (rows + 1)

# %% entropy
def entropy(p):
    """Bits per yes or no of chance p."""
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))

# %% rounded
def rounded(matrix, bits):
    """Multiples of the smallest power of two that reach the largest weight in codes of so many bits."""
    step = 2.0 ** np.ceil(np.log2(np.abs(matrix).max() / (2 ** (bits - 1) - 1)))
    multiples = np.rint(matrix / step) * step
    return np.asarray(multiples, np.float32)

# %% Exercise 1
# Solution 1. Bits per weight, kept or not: bitmap 1 + 8 p, indices 16 p + 8 p, dense 8.
print(f"1 + 8 p < 24 p: p > 1/16 = {1 / 16:.1%};  1 + 8 p < 8: p < 7/8 = {7 / 8:.1%}")

# %% Exercise 2
# Solution 2. One row per input, a column index per output: the live outputs are few enough.
first = small.ops[1].weights
print(f"compact dense1 is {first.shape[0]} x {first.shape[1]}: {first.kept:,} weights")
if first.shape[1] <= 256:
    print(
        f"8-bit indices: {csr_bytes(first.kept, first.shape[0], 1):,} bytes; 16-bit, the other way: {csr_bytes(first.kept, first.shape[1], 2):,}"
    )
# Not for free: a row pointer for each input, of which there are more than outputs.

# %% Exercise 3
# Solution 3. Entropy of the levels. One of them is 0: kept weights that rounding makes 0.
_, counts = np.unique(rounded(weights, bits), return_counts=True)
share = counts / counts.sum()
print(f"{bits} bits per value as a plain code, {-(share * np.log2(share)).sum():.2f} bits with an ideal one")
assert -(share * np.log2(share)).sum() < bits

# %% Exercise 4
# Solution 4. No index at all, and any matrix product can use it.
area = sum(op.weights.shape[0] * op.weights.shape[1] for op in small.ops[1:])
print(f"{area:,} bytes, {plain / area:.1f} times smaller")

# %% Exercise 5
# Solution 5. Try all widths at random places. Cheap values make padding cheap, so that narrow gaps last longer.
p = np.geomspace(0.001, 0.6, 2000)
for value in (32, 5):
    entries = 1 / -np.expm1(2.0 ** widths[:, None] * np.log1p(-p))
    five = p[widths[(entries * (widths[:, None] + value)).argmin(axis=0)] == 5]
    print(f"values of {value:2} bits: from {five.min():.1%} to {five.max():.1%}")
