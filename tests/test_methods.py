"""The methods of `train_mnist`, by name."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.cli.train import Train
from svd_numpy.experiments.methods import METHODS, get_method
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.train.schedules import at_epoch

pytestmark = pytest.mark.usefixtures("blank_pictures")


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


GATED = [name for name, method in METHODS.items() if method.gated]


@pytest.mark.parametrize("name", GATED)
def test_structured_methods_run_and_resume_to_the_bit(name: str, tmp_path: Path) -> None:
    def train(**more: object) -> svd.TrainResult:
        settings = {"dataset": "digits", "epochs": 2}
        return svd.train_mnist(  # type: ignore[call-overload, no-any-return]
            method=name, backend="numpy", batch_size=479, progress=False, eval_every=0, **(settings | more)
        )

    def stop(trainer: object, record: dict[str, object]) -> None:
        if record["epoch"] == 1:
            raise RuntimeError

    whole = train()
    with pytest.raises(RuntimeError):
        train(run_dir=tmp_path, callbacks=[stop])
    resumed = train(run_dir=tmp_path, resume=True)
    for array_name, array in whole.model.arrays().items():
        np.testing.assert_array_equal(resumed.model.arrays()[array_name], array)
    assert whole.to_dict()["method"] == name and whole.history[-1]["stage"] == "finetune"
    assert str(whole).startswith(METHODS[name].title) and "live units" in str(whole)
    assert whole.published is None


@pytest.mark.parametrize("name", GATED)
def test_removal_begins_when_the_kl_has_acted(name: str) -> None:
    plan = get_method(name).adapt(get_recipe("lenet-300-100", "default"))
    config = plan.config
    assert config.remove_above == 5 and 0 < config.remove_from <= config.epochs / 4
    assert at_epoch(config.kl_schedule, config.remove_from) >= 0.5


@pytest.mark.parametrize("name", ["bc-gnj", "bc-ghs", "l0"])
def test_each_image_weighs_as_much_against_the_kl_however_many_there_are(name: str) -> None:
    many, few = (get_recipe("lenet-300-100", recipe) for recipe in ("default", "small"))
    adapt = get_method(name).adapt
    weights = [adapt(plan).config.kl_schedule[-1][1] / plan.images for plan in (many, few)]
    assert weights[0] == pytest.approx(weights[1])


def test_a_search_with_and_without_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/search_gates.py: two candidates of a method; started again, it has nothing to do."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")
    script = importlib.import_module("search_gates")
    monkeypatch.setattr(script, "OUT", tmp_path / "results")
    words = ["--methods", "l0", "--dataset", "digits", "--epochs", "2", "--folder", str(tmp_path / "runs")]
    script.main(words)
    kept = tmp_path / "results" / "search-gates-lenet-300-100.json"
    assert list(json.loads(kept.read_text())["candidates"]) == ["l0", "l0-remove5"]
    for name, above in (("l0", None), ("l0-remove5", 5.0)):
        manifest = next((tmp_path / "runs" / f"lenet-300-100-{name}-seed0").glob("checkpoints/*/manifest.json"))
        config = json.loads(manifest.read_text())["state"]["config"]
        assert (config["remove_above"], config["epochs"]) == (above, 2)
    page = (tmp_path / "results" / "search-gates-lenet-300-100.md").read_text()
    assert "| l0-remove5 | 2.3979 | 1 |" in page and page.endswith("Removal from epoch: l0 20.\n")
    before = (tmp_path / "runs" / "lenet-300-100-l0-seed0" / "metrics.jsonl").stat().st_mtime_ns
    once = kept.read_text()
    script.main(words)
    assert (tmp_path / "runs" / "lenet-300-100-l0-seed0" / "metrics.jsonl").stat().st_mtime_ns == before
    assert kept.read_text() == once


def test_a_repeated_command_stands_above_its_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/machine.py: with new figures it is the last one; a command that changes none is not mentioned."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    machine = importlib.import_module("machine")
    path = tmp_path / "table.json"
    for command, rows in (("one", {"a": 1}), ("two", {"b": 1}), ("one", {"a": 2}), ("three", {"b": 1})):
        commands, found = machine.added(path, "rows", rows, command)
        path.write_text(json.dumps({"commands": commands, "rows": found}))
    assert (commands, found) == (["two", "one"], {"a": 2, "b": 1})


def test_a_search_keeps_earlier_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/search_gates.py: other weights of the KL are further rows of the same table."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")
    script = importlib.import_module("search_gates")
    monkeypatch.setattr(script, "OUT", tmp_path / "results")
    words = ["--methods", "l0", "--remove", "5", "--dataset", "digits", "--epochs", "1"]
    for weight in ("1", "4"):
        given = [*words, "--kl-weights", weight, "--folder", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", ["search_gates.py", *given])
        script.main(given)
    found = json.loads((tmp_path / "results" / "search-gates-lenet-300-100.json").read_text())
    assert list(found["candidates"]) == ["l0-remove5", "l0-kl4-remove5"] and len(found["commands"]) == 2
    weights = {
        name: json.loads(next((tmp_path / "runs").glob(f"*-{name}-seed0/metrics.jsonl")).read_text().splitlines()[0])
        for name in found["candidates"]
    }
    assert weights["l0-kl4-remove5"]["kl_weight"] == 4 * weights["l0-remove5"]["kl_weight"] > 0


@pytest.mark.parametrize("arch", ["lenet-300-100", "lenet-500-300", "lenet-5", "vgg-like"])
def test_networks_in_one_line(arch: str) -> None:
    x = np.random.default_rng(0).random((2, 3, 32, 32) if arch == "vgg-like" else (2, 1, 28, 28), np.float32)
    x = x.reshape(2, -1) if arch[-3:].isdigit() else x
    for model in (
        svd.bayesian_compression(arch, width=0.05, backend="numpy"),
        svd.bayesian_compression(arch, prior="half-cauchy", width=0.05, backend="numpy"),
        svd.structured_pruning(arch, score="bmrs", width=0.05, backend="numpy"),
        svd.l0_regularisation(arch, width=0.05, backend="numpy"),
    ):
        gates = [layer for layer in model.layers if isinstance(layer, svd.Gate)]
        weighted = model.alive()
        assert len(gates) == len(weighted) - (arch == "vgg-like")
        assert model.predict(x).shape == (2, 10)
        assert np.isfinite(model.kl())
    with pytest.raises(svd.SvdValueError, match="prior"):
        svd.bayesian_compression(arch, prior="ard")
