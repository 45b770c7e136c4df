# Answers to the tutorial 07_think_like_a_gpu: How does a GPU see this layer?
#
# They continue the notebook: run them in it.

# %% puzzles 1 and 2
# Solutions of puzzles 1 and 2.
@cuda.jit
def square(x, out):
    i = cuda.threadIdx.x
    value = x[i]  # x[i] * x[i] would be two reads in our books
    out[i] = value * value


@cuda.jit
def square_all(x, out):
    i = cuda.grid(1)
    if i < out.size:
        value = x[i]
        out[i] = value * value


assert judge(square, 1, 10, x, expected=x**2) and judge(square_all, 3, 4, x, expected=x**2)

# %% puzzle 3
# Solution of puzzle 3.
@cuda.jit
def square_any(x, out):
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        value = x[i]
        out[i] = value * value


assert judge(square_any, 2, 4, x[:22], expected=x[:22] ** 2)

# %% puzzle 4
# Solution of puzzle 4.
@cuda.jit
def block_sums(x, out):
    tree = cuda.shared.array(8, np.float32)
    t, start = cuda.threadIdx.x, 16 * cuda.blockIdx.x
    tree[t] = x[start + t] + x[start + t + 8]
    cuda.syncthreads()
    reach = 4
    while reach > 0:
        if t < reach:
            tree[t] += tree[t + reach]
        cuda.syncthreads()
        reach //= 2
    if t == 0:
        out[cuda.blockIdx.x] = tree[0]


_, parts, tree = judge(block_sums, 16, 8, x, expected=x.reshape(16, 16).sum(axis=1))
_, total, _ = judge(block_sums, 1, 8, parts.array, expected=x.sum(dtype=np.float64, keepdims=True))

# %% puzzle 5
# Solution of puzzle 5.
@cuda.jit(device=True)
def philox(c0, c1, c2, c3, k0, k1):
    for _ in range(10):
        p, q = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (q >> BITS) ^ c1 ^ k0, q & LOW, (p >> BITS) ^ c3 ^ k1, p & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


*_, drawn = judge(noise, 2, 4, 1, 2, 3, expected=wanted)

# %% puzzle 6
# Solution of puzzle 6. Barriers: before anyone reads a strip, and before anyone overwrites it.
@cuda.jit
def tiled(a, b, out):
    strip_a = cuda.shared.array((TILE, TILE), np.float32)
    strip_b = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    total = ZERO
    for k0 in range(0, a.shape[1], TILE):
        strip_a[ty, tx] = a[m, k0 + tx] if m < a.shape[0] and k0 + tx < a.shape[1] else ZERO
        strip_b[ty, tx] = b[k0 + ty, n] if k0 + ty < b.shape[0] and n < b.shape[1] else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            total += strip_a[ty, k] * strip_b[k, tx]
        cuda.syncthreads()
    if m < out.shape[0] and n < out.shape[1]:
        out[m, n] = total


tiles = judge(tiled, GRID, (TILE, TILE), x, theta, expected=x @ theta)

# %% puzzle 7
# Solution of puzzle 7.
@cuda.jit
def fused(x, theta, log_sigma2, bias, layer, step, seed, out):
    strip_x = cuda.shared.array((TILE, TILE), np.float32)
    strip_theta = cuda.shared.array((TILE, TILE), np.float32)
    strip_sigma2 = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    mean, var = ZERO, ZERO
    for k0 in range(0, x.shape[1], TILE):
        strip_x[ty, tx] = x[m, k0 + tx] if m < x.shape[0] and k0 + tx < x.shape[1] else ZERO
        inside = k0 + ty < x.shape[1] and n < out.shape[1]
        strip_theta[ty, tx] = theta[k0 + ty, n] if inside else ZERO
        strip_sigma2[ty, tx] = F(math.exp(log_sigma2[k0 + ty, n])) if inside else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            a = strip_x[ty, k]
            mean += a * strip_theta[k, tx]
            var += a * a * strip_sigma2[k, tx]
        cuda.syncthreads()
    if m < out.shape[0] and n < out.shape[1]:
        out[m, n] = mean + bias[n] + F(math.sqrt(var)) * normal(m, n, layer, step, seed)


one_launch = judge(fused, GRID, (TILE, TILE), *layer, expected=answer)

# %% Exercise 1
# Solution 1. A fast thread overwrites a strip that a slow one still reads. With a single strip (K <= 4) there is nothing to overwrite.
@cuda.jit
def hasty(a, b, out):
    strip_a = cuda.shared.array((TILE, TILE), np.float32)
    strip_b = cuda.shared.array((TILE, TILE), np.float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    n, m = cuda.grid(2)
    total = ZERO
    for k0 in range(0, a.shape[1], TILE):
        strip_a[ty, tx] = a[m, k0 + tx] if k0 + tx < a.shape[1] else ZERO
        strip_b[ty, tx] = b[k0 + ty, n] if k0 + ty < b.shape[0] else ZERO
        cuda.syncthreads()
        for k in range(TILE):
            total += strip_a[ty, k] * strip_b[k, tx]
    out[m, n] = total


for inputs in (10, 4):
    found = judge(hasty, GRID, (TILE, TILE), x[:, :inputs], theta[:inputs], expected=x[:, :inputs] @ theta[:inputs])
    assert any(races(array, shared=True) for array in found[3:]) == (inputs == 10)

# %% Exercise 2
# Solution 2. A row: one in each bank. A column: all 32 in one, one after the other. Rows of 33 shift each row by a bank, and both are fast.
for width in (32, 33):
    for what, places in (("row", np.arange(32)), ("column", np.arange(32) * width)):
        print(f"rows of {width}, reading a {what}: {np.bincount(places % 32).max()} in the busiest bank")
assert np.bincount(np.arange(32) * 32 % 32).max() == 32 and np.bincount(np.arange(32) * 33 % 32).max() == 1

# %% Exercise 3
# Solution 3. A patch multiplies and adds 2ab times (mean and variance): (a + 2b) / (2ab) reads for one. Registers are the last tile.
for a, b in ((1, 1), (4, 4), (8, 4)):
    print(f"{a} x {b}: {(a + 2 * b) / (2 * a * b):.3f} reads of shared memory per multiply-add")
assert (1 + 2) / 2 == 1.5 and (8 + 8) / 64 == 0.25
