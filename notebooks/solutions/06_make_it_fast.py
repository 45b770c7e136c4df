# Answers to the tutorial 06_make_it_fast: Where does the time go?
#
# They continue the notebook: run them in it.

# %% sample
def forward(s):
    s.x2, s.sigma2 = s.x**2, np.exp(s.p["log_sigma2"])
    s.mean, s.var = s.x @ s.p["theta"] + s.p["bias"], s.x2 @ s.sigma2


def sample(s):
    s.noise = draw(s)
    s.std = np.sqrt(s.var)
    s.dy = (s.mean + s.std * s.noise - s.target) / B
    s.d_var = s.dy * s.noise / (2 * s.std)

# %% sweep_bytes
sweep_bytes = 8 * W + 6 * W

# %% Exercise 1
# Solution 1. float64: every number is converted, computed in vectors of half as many, and converted back.
HALF = F(0.5)
halves = {"0.5": njit(lambda x: x * 0.5), "F(0.5)": njit(lambda x: x * HALF)}
for text, halve in halves.items():
    halve(F(1))
    print(f"float32 times {text} is {halve.nopython_signatures[0].return_type}")
assert str(halves["0.5"].nopython_signatures[0].return_type) == "float64"

# %% Exercise 2
# Solution 2. 8 B W operations / peak = 14 W * 4 bytes / speed: the number of weights cancels.
even = 7 * PEAK / ADAM_SPEED
print(f"below about {even:.0f} examples")
assert np.isclose(8 * even * WEIGHTS / PEAK, 14 * W / ADAM_SPEED)

# %% Exercise 3
# Solution 3. Cut the array by its length alone, add each piece in order, then the pieces.
@njit(parallel=True)
def fixed_parts(x):
    parts = np.empty(64, np.float32)
    for part in prange(64):
        total = F(0)
        for i in range(part * x.size // 64, (part + 1) * x.size // 64):
            total += x[i]
        parts[part] = total
    return parts


def fixed_sum(x):
    return float(fixed_parts(x).sum())  # outside: in a parallel function Numba would share this sum out, too


threads = sorted({1, CORES})
numbers, sums = np.random.default_rng(3).normal(size=100_000).astype(F), set()
for count_of in threads:
    numba.set_num_threads(count_of)
    sums.add(fixed_sum(numbers))
numba.set_num_threads(1)
assert len(sums) == 1 and np.isclose(sums.pop(), numbers.sum(), atol=0.1)
print("the same bits with", " and ".join(map(str, threads)), "thread(s)")

# %% Exercise 4
# Solution 4. Compare: calls in a long loop, polynomials in a long loop, polynomials in short loops.
LONG = PHILOX | {"update": with_sweep(make_sweep(exp32, log32))}
same(fresh(), LONG, "polynomials in one loop")
three = {"calls, one loop": (fresh(), SWEEP), "polynomials, one loop": (fresh(), LONG)}
three["polynomials, short loops"] = fresh(), BLOCKS
for name, parts in race(three, ROUNDS).items():
    print(f"{name}: {parts['update']:.2f} ms")
