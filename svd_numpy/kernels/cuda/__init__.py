"""The CUDA backend: the contract (`kernels/backend.py`) on a GPU, through `numba.cuda`.

Every kernel module says what a thread does, what it reads, what that costs, what limits it, and why its bits do not
change from run to run. Read them in this order:

    device.py        what a kernel is, its signature, and how several runs share a launch
    elementwise.py   the simplest form: one number in, one number out
    sums.py          numbers of many threads, added in a fixed order
    philox.py        noise without a state
    product.py       the heart: two matrix products at once, tile by tile; with
      tiling.py        how the work is cut
      tables.py        where its operands lie, convolutions included
      sampling.py      what becomes of mean and variance
      finish.py        what becomes of sums that were cut in slices
    dials.py         the numbers that change from step to step
    sweep.py         one pass over all parameters
    images.py, norm.py, losses.py    the rest of a network
    twins.py         which memory of the host stands for which of the device
    recording.py     steps without the host
    backend.py       prepares arguments, and launches all of it
    side_by_side.py  the same for several runs, and for recorded steps: what `train/cuda_runner.py` works with

`benchmarks/cuda_ladder.py` has four simpler products, each with one idea more than the one before, on the way to this
one.

It ran on an H200 once, `benchmarks/results/gpu.md`: all right, the products slow. Products, sweep and images were
rewritten since, and have been compiled, simulated at small sizes, and read in machine code. What the texts say about
time is arithmetic with published figures of a device (of an H200: 132 multiprocessors, 67 TFLOP/s in float32, 4.8
TB/s), where they do not say that it was measured.
"""
