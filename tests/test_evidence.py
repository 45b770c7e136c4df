"""Weights that are pruned by the evidence against them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

import svd_numpy as svd


def test_the_ratio_is_that_of_both_densities_at_0() -> None:
    model = svd.Sequential(svd.VariationalDense(7, 5), svd.ReLU(), svd.Dense(5, 3), prior="normal", backend="numpy")
    rng = np.random.default_rng(0)
    theta, log_sigma2 = model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]
    log_sigma2[...] = rng.uniform(-6, 1, log_sigma2.shape)
    expected = norm(theta, np.exp(log_sigma2 / 2)).logpdf(0) - norm().logpdf(0)
    found = svd.evidence_against(model)
    assert set(found) == {"dense1"}
    np.testing.assert_allclose(found["dense1"], expected, rtol=1e-5, atol=1e-5)
    for tolerance in (0.0, 0.5):
        pruned = svd.prune_by_evidence(model, tolerance)
        np.testing.assert_array_equal(pruned.parameters["dense1.theta"] == 0, found["dense1"] >= -tolerance)
        assert svd.measure_sparsity(pruned).kept["dense1"] <= np.count_nonzero(found["dense1"] < -tolerance)
    assert theta.all()


def test_other_priors_are_refused() -> None:
    with pytest.raises(svd.SvdValueError, match="expected layers with prior 'normal'"):
        svd.prune_by_evidence(svd.Sequential(svd.VariationalDense(7, 5), backend="numpy"))
