"""The methods of `train_mnist`, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import svd_numpy as svd
from svd_numpy.cli.train import Train
from svd_numpy.experiments.methods import METHODS, get_method


def test_methods_are_found_by_name() -> None:
    assert get_method("sparse-vd", "dense") is METHODS["sparse-vd"]
    with pytest.raises(svd.SvdValueError, match=r"method: got 'magic', expected .*sparse-vd"):
        svd.train_mnist(dataset="digits", method="magic")


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_a_title_a_source_and_a_folder_of_their_own(name: str) -> None:
    assert METHODS[name].title and METHODS[name].source
    folder = Train(dataset="digits", method=name).default_run_dir()
    plain = Path("runs/lenet-300-100-digits-default-seed0")
    assert (folder == plain) == (name == "sparse-vd")
