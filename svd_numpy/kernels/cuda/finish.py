"""The end of a product that was cut in slices: its parts are added in order, and finished as a whole one is.

Where a product has few results and long sums, `tiling.py` cuts its sum over k into slices, and each block of
`product.py` writes the part of its slice. The parts lie as (slice, mean or variance, M, N). Here a thread takes one
result (m, n),

    one = parts[0, mean, m, n] + parts[1, mean, m, n] + ...        two = the same of the variance

from the first slice to the last, always in this order: that is why the parts are not added with atomic operations,
which would add them in the order in which blocks happen to end, another one each time. Then it does what the product
does at its end when there is one slice: adds the bias and samples (forward), adds 2 x times the second sum (gradients
of inputs), or stores both (gradients of weights).

Neighbouring threads take neighbouring results, so that each of the 2 x slices loads of a warp is one line of 128
bytes. For each result the kernel reads 8 bytes a slice and writes 8. With 6 slices of the 100 x 300 results of
LeNet-300-100's first layer that is 1.4 MB, which has just been written and is still in the cache of a large device.
"""

from __future__ import annotations

from svd_numpy.kernels.cuda.device import TWO, ZERO, Kernel, U, cuda, kernel
from svd_numpy.kernels.cuda.philox import located, normal_at
from svd_numpy.kernels.cuda.sampling import sampled
from svd_numpy.kernels.cuda.tiling import PASSES


def make_finish(role: str, pair: bool) -> Kernel:
    """Make the kernel that adds the parts of `make_product` in order and ends as it does; one thread an entry."""
    forward, inputs, _ = (role == wanted for wanted in PASSES)

    def finish(parts, slices, sizes, out1, out2, extra, key, clock, seed):
        m_total, n_total, _, _, positions, relu = sizes
        start, step, size = U(cuda.grid(1)), U(cuda.gridsize(1)), m_total * n_total
        here = located(key, clock, seed)
        for i in range(start, size, step):
            at = U(i)
            one, two, part = ZERO, ZERO, at
            for _ in range(slices):
                one += parts[part]
                part += size
                if pair:
                    two += parts[part]
                    part += size
            m, n = at // n_total, at % n_total
            if forward:
                one += extra[n]
                if pair:
                    drawn = normal_at(m // positions, (m % positions) * n_total + n, here)
                    one, out2[at] = sampled(one, two, drawn)
                    if relu and one <= ZERO:
                        one = ZERO
                out1[at] = one
            elif inputs:
                if pair:
                    one += TWO * extra[at] * two
                out1[at] = one
            else:
                out1[at] = one
                if pair:
                    out2[at] = two

    return kernel("FuzFFFwTU", f"finish_{role}_{'pair' if pair else 'plain'}")(finish)


FINISH = {(role, pair): make_finish(role, pair) for role in PASSES for pair in (True, False)}
