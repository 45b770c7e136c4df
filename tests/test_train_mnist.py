"""`train_mnist`: two epochs of each recipe on the embedded digits, its files, its words."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from small_runs import bits, run_log, timeless

import svd_numpy as svd
from svd_numpy.data import MissingDataError
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.recipes import PUBLISHED, RECIPES, get_recipe, note_on_size, stretch
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import begin
from svd_numpy.experiments.run_files import recorded_dataset, run_figures
from svd_numpy.files.safe_arrays import load_model
from svd_numpy.plots.frames import FrameRecorder
from svd_numpy.train.trainer import Trainer

RUN_FILES = [
    "checkpoints",
    "frames.npz",
    "log_alpha.npz",
    "metrics.jsonl",
    "model.safetensors",
    "result.json",
    "result.txt",
    "summary.png",
]
RESULT_KEYS = {
    "arch", "width", "kind", "recipe", "kl_weight", "dataset", "warning", "seed", "init_from", "backend", "n_train",
    "n_test", "train_error", "test_error", "test_nll", "pretrained_test_error", "layer_sparsity", "live_units",
    "method", "compression", "bits", "finetuned", "epochs", "seconds",
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    monkeypatch.delenv("SVD_NUMPY_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda _name: tmp_path_factory.getbasetemp() / "no-cache")


def train(**changes: Any) -> TrainResult:
    settings = {"dataset": "digits", "backend": "numpy", "epochs": 2, "batch_size": 240, "progress": False}
    return svd.train_mnist(**(settings | changes))


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_run_on_digits_leaves_everything_and_compares_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    result = train(recipe=recipe, dataset="auto", run_dir=tmp_path, progress=True)
    epochs = 3 if recipe == "default" else 2  # the default recipe fine-tunes
    out = capsys.readouterr().out
    assert "NOTE: " in out and "NOT MNIST" in out and f"epoch    {epochs}/{epochs}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == RUN_FILES
    content = json.loads((tmp_path / "result.json").read_text())
    assert set(content) == RESULT_KEYS and content == result.to_dict()
    assert (content["dataset"], content["recipe"], content["epochs"]) == ("digits", recipe, epochs)
    assert (content["n_train"], content["n_test"]) == (1437, 360) and "NOT MNIST" in content["warning"]
    assert content["finetuned"] == (recipe == "default")
    assert list(content["layer_sparsity"]) == ["dense1", "dense2", "dense3"]
    assert content["live_units"] == {name: list(counts) for name, counts in result.report.live.items()}
    assert (content["kind"], content["width"], content["pretrained_test_error"]) == ("variational", 1.0, None)

    text = str(result)
    assert (tmp_path / "result.txt").read_text() == f"{text}\n"
    assert "the paper" not in text and "NOTE: " in text and "digits" in text and result.published is None
    assert "Measured on 360 test images." in text
    assert "live units  " + " - ".join(f"{live}/{units}" for live, units in result.report.live.values()) in text
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")
    assert len(FrameRecorder.load(tmp_path / "frames.npz")) == epochs
    assert run_log(tmp_path) == timeless(result.history) and len(result.history) == epochs

    loaded = svd.Sequential.load(tmp_path / "model.safetensors", backend="numpy")
    np.testing.assert_array_equal(loaded.predict(result.data.x_test), result.model.predict(result.data.x_test))
    assert svd.evaluate(loaded, result.data.x_test, result.data.y_test)["error"] == result.test_error
    assert load_model(tmp_path / "model.safetensors")[1] == result.model.config()
    mean = loaded.input_mean
    assert mean.any() == (recipe == "paper")
    assert result.test_error < 0.9 and np.isfinite(result.test_nll)


@pytest.mark.usefixtures("blank_pictures")
def test_an_interrupted_run_is_resumed_with_its_pictures(tmp_path: Path) -> None:
    whole = train(epochs=3, run_dir=tmp_path / "whole")

    def stop(_: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise RuntimeError("stop")

    run_dir = tmp_path / "run"
    with pytest.raises(RuntimeError, match="stop"):
        train(epochs=3, run_dir=run_dir, callbacks=[stop])
    with pytest.raises(ValueError, match="holds a run already"):
        train(epochs=3, run_dir=run_dir)
    resumed = train(epochs=3, run_dir=run_dir, resume=True)
    assert bits(resumed.model) == bits(whole.model)
    assert run_log(run_dir) == run_log(tmp_path / "whole")
    frames, expected = (FrameRecorder.load(path / "frames.npz") for path in (run_dir, tmp_path / "whole"))
    assert frames.epochs == expected.epochs == [1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack(frames.codes), np.stack(expected.codes))
    again = train(epochs=3, run_dir=run_dir, resume=True)
    assert again.to_dict() == resumed.to_dict() and bits(again.model) == bits(resumed.model)


def test_nothing_is_written_without_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("blank_pictures")
def test_starting_from_a_saved_network(tmp_path: Path) -> None:
    first, file = train(epochs=1), tmp_path / "start.safetensors"
    first.model.save(file)
    for start in (file, first.model):
        options = Options(dataset="digits", arch="lenet-300-100", backend="numpy", seed=7, init_from=start)
        assert bits(begin(options, first.data).model) == bits(first.model)
    again, same, other = (train(epochs=1, init_from=start) for start in (file, first.model, None))
    assert bits(again.model) == bits(same.model) != bits(other.model)
    assert (again.init_from, other.init_from) == (True, False)


def test_mnist_without_data_says_what_to_do() -> None:
    with pytest.raises(MissingDataError) as caught:
        train(dataset="mnist")
    for words in ("train-images-idx3-ubyte", "SVD_NUMPY_DATA", "data_dir", 'dataset="digits"', "OFFLINE"):
        assert words in str(caught.value)


def test_tables_are_no_images() -> None:
    with pytest.raises(ValueError, match="'diabetes', expected images with labels"):
        train(dataset="diabetes")


# ---- recipes


def test_the_table_shows_the_papers_row_on_mnist_only() -> None:
    result = train(epochs=1)
    row = PUBLISHED["lenet-300-100"]
    assert (row.error, row.layer_sparsity, row.compression) == (0.0192, (0.989, 0.972, 0.62), 68.0)
    text = str(replace(result, data=replace(result.data, name="mnist")))
    assert "the paper" in text and "98.9 - 97.2 - 62.0" in text and "68x" in text and "1.92" in text


def test_stretching_scales_knots_and_fine_tuning() -> None:
    config = RECIPES["lenet-300-100", "default"].config
    half = stretch(config, config.epochs // 2)
    for name in ("lr_schedule", "kl_schedule"):
        expected = [(epoch / 2, value) for epoch, value in getattr(config, name)]
        np.testing.assert_allclose(getattr(half, name), expected)
    assert half.finetune_epochs == round(config.finetune_epochs / 2)
    assert stretch(config, config.epochs) == config
    assert stretch(config, 1).finetune_epochs == 1
    assert stretch(RECIPES["lenet-300-100", "paper"].config, 1).finetune_epochs == 0


def test_the_papers_recipe_is_the_authors_script() -> None:
    recipe = get_recipe("lenet-300-100", "paper")
    config = recipe.config
    assert (config.epochs, config.batch_size, config.lr, config.train_mask) == (200, 100, 1e-3, True)
    assert np.array_equal(config.lr_schedule, [(100, 1), (200, 0)])
    assert np.array_equal(config.kl_schedule, [(5, 0), (20, 1)])
    assert (recipe.log_sigma2, recipe.theta_std, recipe.subtract_mean) == (-10, 0.01, True)


@pytest.mark.usefixtures("blank_pictures")
def test_a_resumed_run_still_knows_by_what_it_was_pruned(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": "digits", "epochs": 3, "progress": False, "run_dir": tmp_path / "run"}
    first = svd.train_mnist(**settings)
    again = svd.train_mnist(**settings, resume=True)
    assert first.history[-1]["stage"] == "finetune"
    for name, values in first.log_alphas.items():
        assert (first.model.parameters[f"{name}.theta"][values > 1.7] == 0).all()
        np.testing.assert_allclose(again.log_alphas[name], values, rtol=1e-3, atol=1e-2)
    (tmp_path / "run" / "log_alpha.npz").write_bytes(b"rubbish")
    with pytest.warns(UserWarning, match=r"log_alpha\.npz is damaged"):  # only pictures need it
        assert svd.train_mnist(**settings, resume=True).log_alphas == {}


# ---- networks to compare with, and random labels


@pytest.mark.parametrize("kind", ["dense", "dropout"])
def test_ordinary_networks_are_trained_by_the_same_code(tmp_path: Path, kind: str) -> None:
    result = train(kind=kind, run_dir=tmp_path, epochs=3)
    assert [record["stage"] for record in result.history] == ["variational"] * 3  # nothing to fine-tune
    none = dict.fromkeys(("dense1", "dense2", "dense3"), 0.0)
    assert (result.kind, result.compression, result.layer_sparsity, result.log_alphas) == (kind, 1.0, none, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*RUN_FILES} - {"frames.npz", "log_alpha.npz"})
    text = (tmp_path / "result.txt").read_text()
    name = {"dense": "Dense network", "dropout": "Bernoulli dropout"}[kind]
    assert text.startswith(f"{name}, lenet-300-100 on digits") and "live units" not in text
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == kind
    assert list(run_figures(tmp_path, result.history)) == ["training_curves"]
    loaded = svd.Sequential.load(tmp_path / "model.safetensors", backend="numpy")
    assert svd.evaluate(loaded, result.data.x_test, result.data.y_test)["error"] == result.test_error < 0.5
    assert train(kind=kind, run_dir=tmp_path, epochs=3, resume=True).to_dict() == result.to_dict()
    on_mnist = replace(result, data=replace(result.data, name="mnist"))
    assert on_mnist.published is None  # the paper's row is not one of ordinary networks


def test_an_ordinary_network_is_a_start_for_sparse_vd() -> None:
    dropout = train(kind="dropout")
    theta = {name: array.copy() for name, array in dropout.model.parameters.items()}
    options = Options(dataset="digits", arch="lenet-300-100", backend="numpy", seed=5, init_from=dropout.model)
    seen = begin(options, dropout.data).model.parameters
    assert all(np.array_equal(seen[name], array) for name, array in theta.items())
    assert {name for name in seen if name not in theta} == {f"dense{number}.log_sigma2" for number in (1, 2, 3)}


@pytest.mark.usefixtures("blank_pictures")
def test_random_labels_are_seeded_named_and_not_compared(tmp_path: Path) -> None:
    true = svd.load("digits")
    result, again, other = (train(random_labels=True, seed=seed, epochs=1) for seed in (0, 0, 1))
    labels = result.data.y_train
    np.testing.assert_array_equal(labels, again.data.y_train)
    assert (labels != other.data.y_train).mean() > 0.8
    counts = np.bincount(labels, minlength=10)
    assert counts.sum() == 1437 and (np.abs(counts - 143.7) < 5 * 143.7**0.5).all()  # uniform
    assert abs((labels == true.y_train).mean() - 0.1) < 5 * (0.09 / 1437) ** 0.5  # and independent of the true ones
    np.testing.assert_array_equal(result.data.y_test, true.y_test)
    np.testing.assert_array_equal(result.data.x_train, true.x_train)
    text = str(result)
    assert "on digits, random labels" in text and "labels are random" in text
    assert f"Training error in the last epoch: {100 * result.history[-1]['train_error']:.2f} %" in text
    on_mnist = replace(result, data=replace(result.data, name="mnist, random labels"))
    assert on_mnist.published is None
    on_mnist.save(tmp_path)
    assert recorded_dataset(tmp_path) == "mnist"  # whose test labels it has


def test_only_networks_for_mnist() -> None:
    with pytest.raises(ValueError, match="arch: got 'vgg-like', expected one of"):
        train(arch="vgg-like")
    with pytest.raises(ValueError, match="kind: got 'sparse', expected one of"):
        train(kind="sparse")
    with pytest.raises(TypeError, match="random_labels: got 1"):
        train(random_labels=1)


@pytest.mark.usefixtures("blank_pictures")
def test_frames_hold_test_errors_and_nothing_in_their_place(tmp_path: Path) -> None:
    train(epochs=3, run_dir=tmp_path / "run", eval_every=2)
    frames = FrameRecorder.load(tmp_path / "run" / "frames.npz")
    measured = np.isfinite(np.array(frames.test_errors, dtype=float))
    assert measured.tolist() == [epoch % 2 == 0 or epoch == frames.epochs[-1] for epoch in frames.epochs]


def test_a_recipe_for_far_more_images_says_so_with_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    result = train(recipe="paper", progress=True)
    start = "chosen for 60,000 training images and 120,000 steps; this run has 1,437 and 12, and the KL weighs 42 times"
    assert start in (note := result.data.warning) and note in capsys.readouterr().out and note in str(result)
    plan = get_recipe("lenet-5", "default")
    assert note_on_size(plan, plan.config, 60_000) == note_on_size(plan, plan.config, 55_000) == ""
    assert "try kl_weight=0.024, or recipe='small'." in note and "\n" not in note
    assert "small" not in note_on_size(plan, plan.config, 1437)  # LeNet-5 has no such recipe
    small = get_recipe("lenet-300-100", "small")
    assert note_on_size(small, small.config, 1437) == note_on_size(small, small.config, 10_000) == ""
    assert "recipe='default' suits it better" in note_on_size(small, small.config, 60_000)


@pytest.mark.slow
def test_the_recipe_for_few_images_keeps_its_word() -> None:
    """Half a point of the dense network at most, and twenty times fewer weights, on images that chose nothing."""
    found = svd.train_mnist(dataset="digits", recipe="small", seeds=range(3), progress=False)
    dense = svd.train_mnist(dataset="digits", recipe="small", kind="dense", seeds=range(3), progress=False)
    errors, base = (np.mean([one.test_error for one in runs]) for runs in (found, dense))
    assert errors <= base + 0.005
    assert np.mean([one.compression for one in found]) >= 20


def test_a_result_at_the_end_of_a_cell_is_short_and_has_a_picture() -> None:
    result = train()
    text = repr(result)
    assert text.startswith("<TrainResult: ") and "lenet-300-100 on digits" in text and len(text) < 200
    assert f"{100 * result.test_error:.2f} % error" in text
    page = result._repr_html_()
    assert len(page) < 100_000
    assert ElementTree.fromstring(f"<div>{page.removesuffix('>')}/></div>").find("table") is not None
    assert f"<td>{result.test_nll:.4f}</td>" in page and f"<td>{result.compression:.1f}x</td>" in page
    picture = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert picture.startswith(b"\xff\xd8")  # JPEG
    dense = train(kind="dense")
    assert "<table>" in dense._repr_html_() and "live units" not in dense._repr_html_()
    empty = replace(result, history=[])
    assert repr(empty).endswith("not trained>") and "not trained" in empty._repr_html_()
