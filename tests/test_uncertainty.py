"""Entropies, calibration and detection against closed forms and other people's code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma, ndtr, softmax
from small_runs import bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.assess.uncertainty import auroc, calibration, decompose, sample_probabilities
from svd_numpy.experiments.uncertainty import METHODS, UncertaintyReport, measure_uncertainty
from svd_numpy.network.sparsity import freeze


def test_agreement_and_disagreement() -> None:
    sure, torn = [[1.0, 0.0]], [[0.5, 0.5]]
    other = [[0.0, 1.0]]
    for samples, total, data in (
        ([sure, sure], 0, 0),
        ([torn, torn], np.log(2), np.log(2)),
        ([sure, other], np.log(2), 0),
        ([torn], np.log(2), np.log(2)),
    ):
        found = decompose(np.array(samples))
        np.testing.assert_allclose([found.total[0], found.data[0]], [total, data], atol=1e-15)
        np.testing.assert_allclose(found.knowledge, total - data, atol=1e-15)


def test_the_parts_of_a_dirichlet_are_those_of_its_closed_form() -> None:
    concentration = np.array([0.5, 2.0, 3.5])
    whole = concentration.sum()
    n = 200_000
    draws = np.random.default_rng(0).dirichlet(concentration, n)
    found = decompose(draws[:, None])
    mean = concentration / whole
    total = -(mean * np.log(mean)).sum()
    data = digamma(whole + 1) - (mean * digamma(concentration + 1)).sum()
    bound = 5 * np.log(3) / np.sqrt(n)  # five standard errors of numbers between 0 and log 3, and more
    np.testing.assert_allclose(found.mean[0], mean, atol=bound)
    assert abs(found.total[0] - total) < bound
    assert abs(found.data[0] - data) < bound
    assert abs(found.knowledge[0] - (total - data)) < 2 * bound


def test_knowledge_is_never_negative() -> None:
    draws = np.random.default_rng(1).dirichlet(np.ones(4), (1, 500)).astype(np.float32)
    found = decompose(np.repeat(draws, 7, axis=0))
    assert (found.knowledge >= 0).all() and found.knowledge.max() < 1e-6


def test_calibration_by_hand() -> None:
    top = np.array([0.95, 0.95, 0.85, 0.65, 1.0])
    probabilities = np.column_stack([top, 1 - top])
    found = calibration(probabilities, np.array([0, 1, 0, 0, 0]), bins=10)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 0, 1, 0, 1, 3])
    np.testing.assert_allclose(found.accuracy[[6, 8, 9]], [1, 1, 2 / 3])
    np.testing.assert_allclose(found.confidence[[6, 8, 9]], [0.65, 0.85, 2.9 / 3])
    assert np.isnan(found.accuracy[:6]).all()
    assert found.error == pytest.approx((0.35 + 0.15 + 0.9) / 5)


def test_calibration_is_the_sum_of_its_definition() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(5) / 2, 1000)
    labels = rng.integers(0, 5, 1000)
    expected = 0.0
    for low in range(15):
        rows = [p.max() for p in probabilities if low / 15 < p.max() <= (low + 1) / 15]
        right = [
            p.argmax() == y for p, y in zip(probabilities, labels, strict=True) if low / 15 < p.max() <= (low + 1) / 15
        ]
        expected += abs(sum(right) - sum(rows)) / 1000
    assert calibration(probabilities, labels).error == pytest.approx(expected)


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    n = 40_000
    probabilities = rng.dirichlet(np.ones(3), n)
    labels = (probabilities.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    assert calibration(probabilities, labels).error < np.sqrt(15 / n)  # each bin's gap is about sqrt(1 / 4 n_b)
    overconfident = softmax(3 * np.log(probabilities), axis=1)
    assert calibration(overconfident, labels).error > 0.15


def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    rng = np.random.default_rng(4)
    inside, outside = rng.integers(0, 8, 300) / 7, rng.integers(2, 10, 500) / 7
    gap = outside[:, None] - inside
    assert auroc(inside, outside) == pytest.approx((gap > 0).mean() + (gap == 0).mean() / 2)
    assert auroc([0, 0], [0]) == 0.5 and auroc([0, 1], [2]) == 1.0 and auroc([3], [1, 2]) == 0.0


def test_auroc_of_two_gaussians() -> None:
    rng = np.random.default_rng(5)
    found = auroc(rng.standard_normal(20_000), 1.5 + rng.standard_normal(20_000))
    assert found == pytest.approx(ndtr(1.5 / np.sqrt(2)), abs=5 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize("survivors_only", [False, True])
def test_samples_vary_as_the_weights_do(survivors_only: bool) -> None:
    """The log-odds of a linear model are Gaussian, with a variance that can be written down."""
    model = svd.Sequential(svd.VariationalDense(3, 2, log_sigma2=-1.0), backend="numpy", dtype="float64")
    model.parameters["dense1.theta"][...] = [[2, -2], [0.01, 0.01], [1, 0.01]]  # three of six survive
    before, x, n = bits(model), np.array([[1.0, 2.0, -1.0]]), 4000
    probabilities = sample_probabilities(model, x, n, survivors_only)
    assert probabilities.shape == (n, 1, 2)
    odds = np.log(probabilities[:, 0, 0] / probabilities[:, 0, 1])
    counted = np.array([[1, 1], [0, 0], [1, 0]]) if survivors_only else np.ones((3, 2))
    variance = np.exp(-1.0) * (x[0] ** 2 @ counted).sum()
    mean = 4.0 - 1.0 if survivors_only else 4.0 - 0.99
    assert odds.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / n))
    assert odds.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    assert bits(model) == before


@pytest.fixture(scope="module")
def model() -> svd.Sequential:
    """A small network that keeps its noise."""
    model = make_net()
    kl, lr = ((5.0, 0.0), (20.0, 0.3)), ((0.0, 1.0),)
    config = make_config(epochs=40, lr_schedule=lr, kl_schedule=kl, finetune_epochs=0)
    svd.fit(model, make_data(), config, progress=False)
    return model


@pytest.fixture(scope="module")
def report(model: svd.Sequential) -> UncertaintyReport:
    """Familiar inputs and others that belong to no class."""
    inside = make_data()
    foreign = np.random.default_rng(9).normal(size=(80, 12)).astype(np.float32)
    outside = replace(inside, name="foreign", x_test=foreign, y_test=np.zeros(80, np.int64))
    return measure_uncertainty(model, inside=inside, outside=outside, n=50)


def test_the_report_measures_what_it_says(model: svd.Sequential, report: UncertaintyReport) -> None:
    data = make_data()
    assert list(report.rows) == list(METHODS)
    pruned = report.rows["pruned"]
    score = svd.evaluate(model, data.x_test, data.y_test)
    assert pruned.error == pytest.approx(score["error"]) and pruned.nll == pytest.approx(score["nll"], rel=1e-4)
    assert pruned.inside.knowledge.max() < 1e-7
    samples = sample_probabilities(model, data.x_test, 50)
    np.testing.assert_array_equal(report.rows["posterior"].inside.total, decompose(samples).total)
    of_average = -np.log(samples.mean(axis=0)[np.arange(60), data.y_test]).mean()
    assert report.rows["posterior"].nll == pytest.approx(float(of_average), rel=1e-5)
    for row in report.rows.values():
        figures = row.to_dict()
        assert figures["auroc_total"] == auroc(row.inside.total, row.outside.total) > 0.75
        assert figures["ece"] == row.calibration.error
    for name in ("posterior", "survivors"):
        assert report.rows[name].to_dict()["auroc_knowledge"] > 0.75
    assert report.rows["survivors"].inside.knowledge.mean() < report.rows["posterior"].inside.knowledge.mean()


def test_the_report_is_written(report: UncertaintyReport, tmp_path: Path) -> None:
    report.save(tmp_path)
    assert json.loads((tmp_path / "uncertainty.json").read_text()) == report.to_dict()
    text = (tmp_path / "uncertainty.txt").read_text()
    assert text == f"{report}\n" and len(text.splitlines()) == 5 and "foreign images: foreign" in text
    assert (tmp_path / "uncertainty.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_shows_the_measurements(report: UncertaintyReport) -> None:
    axes = report.plot().axes
    assert len(axes) == 6
    for upper, lower, row in zip(axes[:3], axes[3:], report.rows.values(), strict=True):
        measured = row.calibration
        filled = measured.count > 0
        np.testing.assert_allclose([bar.get_height() for bar in upper.patches], measured.accuracy[filled])
        np.testing.assert_allclose(upper.lines[1].get_xdata(), measured.confidence[filled])
        assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(2)  # two histograms of shares
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["own", "foreign"]


def test_a_run_folder_will_do(model: svd.Sequential, report: UncertaintyReport, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    data = make_data()
    again = measure_uncertainty(tmp_path, inside=data, outside=data, n=2)
    assert again.rows["pruned"].error == report.rows["pruned"].error
    assert again.rows["posterior"].to_dict()["auroc_total"] == pytest.approx(0.5)  # nothing foreign about itself
    with pytest.raises(svd.SvdValueError, match=r"svd-numpy train"):
        measure_uncertainty(tmp_path / "elsewhere", inside=data, outside=data)


def frozen() -> svd.Sequential:
    """A network whose noise fine-tuning has removed."""
    net = make_net()
    freeze(net, 3.0)
    return net


REGRESSION = svd.Sequential(svd.VariationalDense(12, 3), likelihood="gaussian", backend="numpy")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: sample_probabilities(frozen(), d.x_test), ("without noise", "finetune_epochs=0")),
        (lambda d: measure_uncertainty(frozen(), inside=d, outside=d), ("without noise", "finetune_epochs=0")),
        (lambda d: sample_probabilities(REGRESSION, d.x_test), ("Gaussian", "expected a classifier")),
        (lambda d: sample_probabilities(make_net(), d.x_test, 0), ("n: got 0", "expected")),
        (lambda d: sample_probabilities(make_net(), d.x_test, 2, 1), ("survivors_only", "expected True or False")),
        (
            lambda d: measure_uncertainty(make_net(), inside=d, outside="mnist"),
            ("outside", "'mnist'", "expected a Dataset"),
        ),
        (
            lambda d: measure_uncertainty(make_net(), inside=d, outside=svd.load("digits")),
            ("784 inputs", "expected 12"),
        ),
        (lambda d: measure_uncertainty(make_net(), inside=d, outside=d, n=1), ("n: got 1", "expected")),
        (lambda d: decompose(np.ones((3, 2))), ("(3, 2)", "expected", "(n, B, C)")),
        (lambda d: decompose(np.ones((3, 2, 2))), ("sum is not 1", "expected")),
        (lambda d: decompose(np.full((3, 2, 2), np.nan)), ("sum is not 1", "expected")),
        (lambda d: calibration(np.full((3, 2), 0.5), np.array([0, 1, 2])), ("label 2", "expected 0..1")),
        (lambda d: calibration(np.full((3, 2), 0.5), np.array([0, 1, 1]), 0), ("bins", "0", "expected")),
        (lambda d: auroc([], [1.0]), ("inside", "expected")),
        (lambda d: auroc([1.0], [np.nan]), ("outside", "expected")),
        (lambda d: auroc([np.inf], [1.0]), ("inside", "expected")),
    ],
)
def test_a_senseless_call_is_refused_with_reason(call: Any, words: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(make_data())
    for word in words:
        assert word in str(caught.value)
