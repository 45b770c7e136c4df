"""Losses on the device: one thread an example; what is summed over the batch goes through `sums.py`."""

from __future__ import annotations

import math

from svd_numpy.kernels.cuda.device import ONE, ZERO, F, U, cuda, kernel


@kernel("uuFLTFF")
def softmax_cross_entropy(rows, classes, logits, labels, clock, d_logits, terms):
    """d_logits = (softmax - one_hot) / rows; terms (rows, 2) = NLL in nats, 1 where the guess is right; a thread a row.

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
        terms[U(2) * b + U(1)] = ONE if guess == label else ZERO
        share = ONE / F(rows)
        for c in range(classes):
            p = F(math.exp(logits[start + U(c)] - top - log_total))
            d_logits[start + U(c)] = (p - (ONE if U(c) == label else ZERO)) * share


@kernel("uFFTfFF")
def gaussian_nll(count, prediction, target, clock, scale, d_prediction, terms):
    """d_prediction = (prediction - target) * scale; terms (count, 2) = squared error, 0; one thread an entry."""
    for i in range(U(cuda.grid(1)), count, U(cuda.gridsize(1))):
        e = U(i)
        error = prediction[e] - target[e + clock[0] * count]
        d_prediction[e] = error * scale
        terms[U(2) * e] = error * error
        terms[U(2) * e + U(1)] = ZERO
