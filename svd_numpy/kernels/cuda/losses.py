"""Losses on the device: one thread an example; what is summed over the batch goes through `sums.py`.

**Softmax and cross-entropy.** With logits z of an example, its label l and top = max z, the negative log-likelihood is

    nll = log(sum_c exp(z_c - top)) - (z_l - top)        d_z_c = (exp(z_c - top - log sum) - [c = l]) / B

and never overflows, because no exponent is above 0 and one of them is 0, so that the sum is at least 1. A thread walks
over its row three times: the largest logit, which is also the guess; the sum; the gradient. A guess is right where the
first of the largest logits is the label. A NaN among the logits makes the nll one, and the training stops there.

The two numbers that are summed over the batch, the nll and whether the guess is wrong, are written as `terms` (B, 2)
and added by `fold_to_exact`, in float64 and in a fixed order: the logged loss has the same bits in every run.

**Cost.** Ten classes are 40 bytes read three times, the second and third time from the nearest cache, 48 written, and
20 exponentials. A batch of 100 is less than one block: one multiprocessor of all is at work, for the time of some
thirty accesses one after the other, a few microseconds. More threads for a row would have to exchange maximum and sum
through shared memory, and would be faster from some hundred classes on; of ten, a warp would use a third of its lanes
and gain nothing over the launch.

**Gaussian.** nll = (prediction - target)^2 / (2 std^2) + log(std sqrt(2 pi)), and the gradient is (prediction - target)
/ (std^2 B). A thread takes one output of one example, and its terms are nll and squared error. The std may be another
one in each run and after each epoch (it can be estimated while training), so 1 / std^2 and the constant are read from
the table of dials (`dials.py`).

Labels and targets are tables of the whole epoch when a step is recorded: row b of the batch is row b + clock B of them.
"""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import HALF, ONE, ZERO, F, U, cuda, kernel
from svd_numpy.kernels.cuda.dials import DIALS, LOG_SCALE, PRECISION


@kernel("uuFLTFF")
def softmax_cross_entropy(rows, classes, logits, labels, clock, d_logits, terms):
    """d_logits = (softmax - one_hot) / rows; terms (rows, 2) = NLL in nats, 1 where the guess is wrong; a thread a row.

    Three walks over the row: the largest logit, the sum of exponentials below it (so that none overflows), the result.
    """
    for i in range(U(cuda.grid(1)), rows, U(cuda.gridsize(1))):
        b = U(i)
        start, label = b * classes, U(labels[b + clock[0] * rows])
        top, guess = logits[start], U(0)
        for c in range(U(1), classes):
            if logits[start + U(c)] > top:
                top, guess = logits[start + U(c)], U(c)
        total = ZERO
        for c in range(classes):
            total += F(math.exp(logits[start + U(c)] - top))
        log_total = F(math.log(total))
        terms[U(2) * b] = log_total - (logits[start + label] - top)
        terms[U(2) * b + U(1)] = ZERO if guess == label else ONE
        share = ONE / F(rows)
        for c in range(classes):
            p = F(math.exp(logits[start + U(c)] - top - log_total))
            d_logits[start + U(c)] = (p - (ONE if U(c) == label else ZERO)) * share


@kernel("uuFFFTFF")
def gaussian_nll(count, rows, prediction, target, dials, clock, d_prediction, terms):
    """d_prediction = (prediction - target) / (std^2 rows); terms (count, 2) = NLL, squared error; a thread an entry."""
    now = clock[0] * DIALS
    precision, log_scale = dials[now + PRECISION], dials[now + LOG_SCALE]
    share = precision / F(rows)
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        error = prediction[e] - target[e + clock[0] * count]
        d_prediction[e] = error * share
        terms[U(2) * e] = HALF * (error * precision) * error + log_scale
        terms[U(2) * e + U(1)] = error * error
