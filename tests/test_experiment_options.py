"""The arguments of the experiments: the same names, meanings, defaults and order everywhere."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from itertools import combinations
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import svd_numpy as svd
from svd_numpy.experiments import cifar
from svd_numpy.experiments.options import Keywords, Options

FUNCTIONS = (svd.train_mnist, svd.train_cifar, svd.train_regression, svd.train_text, svd.train_sentiment)
OWN = {"dataset", "arch", "units"}  # whose defaults are each experiment's own


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_have_names(function: Any) -> None:
    assert {one.kind for one in parameters(function).values()} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(("one", "other"), list(combinations(FUNCTIONS, 2)))
def test_common_arguments_have_one_order_and_one_default(one: Any, other: Any) -> None:
    first, second = parameters(one), parameters(other)
    common = [name for name in first if name in second]
    assert len(common) >= 7 and common == [name for name in second if name in first]
    for name in set(common) - OWN:
        assert first[name].default == second[name].default, name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_options_have_the_same_defaults(function: Any) -> None:
    found = parameters(function)
    for field in fields(Options):
        if field.name in found and field.default is not MISSING:
            assert found[field.name].default == field.default, field.name


@pytest.mark.parametrize(
    ("function", "keywords"), [(svd.train_mnist, Keywords), (svd.train_cifar, cifar.CifarKeywords)]
)
def test_type_checkers_see_the_arguments_that_there_are(function: Any, keywords: Any) -> None:
    hints, known = get_type_hints(function), get_type_hints(keywords)
    assert set(known) == set(parameters(function)) - {"kl_weight", "seeds"}
    assert known == {name: hints[name] for name in known}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_argument_is_documented_in_order(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    section = text.split("Parameters\n----------\n")[1].split("\n\nReturns")[0]
    names = [line.split(" : ")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    listed = [name for line in names for name in line.split(", ")]
    assert listed == list(parameters(function))


def test_options_are_checked() -> None:
    options = Options(dataset="digits", arch="lenet-5", run_dir="run", backend="numpy")
    assert options.folder == Path("run").absolute() and options.backend == "numpy"
    with pytest.raises(svd.SvdValueError, match="resume=True needs run_dir"):
        Options(dataset="digits", arch="lenet-5", resume=True)
    with pytest.raises(svd.SvdTypeError, match="random_labels: got 1"):
        Options(dataset="digits", arch="lenet-5", random_labels=1)  # type: ignore[arg-type]
