"""`train_cifar`: both stages on a few synthetic images, stopped and gone on with, and what they leave."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import plain_backend  # noqa: F401 - a fixture
from matplotlib.figure import Figure
from small_runs import bits, run_log, tree

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.data import Dataset
from svd_numpy.experiments import cifar, run
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import begin
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.train.console import TrainingInterrupted
from svd_numpy.train.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "width": 0.05, "epochs": 1, "pretrain_epochs": 1, "batch_size": 20, "backend": "numpy", "progress": False,
}  # fmt: skip
DRAW = TrainResult.plot
WARNING = "cifar10: 20 of 10,000 test images are used, because test_batch.bin lacks the others."


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[Dataset]:
    """Ten classes of 32 x 32 images that differ in their colour, in the place of CIFAR."""
    rng = np.random.default_rng(3)
    y = np.arange(60) % 10
    colours = rng.uniform(40, 215, (10, 3, 1))
    x = (colours[y] + rng.normal(0, 20, (60, 3, 1024))).clip(0, 255).astype(np.uint8).reshape(60, -1)
    data = Dataset("cifar10", x[:40], y[:40], x[40:], y[40:], (3, 32, 32), 10, "made here", WARNING)

    def load(name: str, data_dir: Any) -> Dataset:
        return replace(data, name=name)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(run, "load", load)
        monkey.setattr(TrainResult, "plot", lambda result: Figure())  # fifteen histograms take seconds
        yield data


def train(**changes: Any) -> Any:
    return svd.train_cifar(**(SETTINGS | changes))


def stop_in(stage: str) -> Callable[..., None]:
    """Make a callback that ends the run after the first epoch of a stage."""

    def stop(trainer: Trainer, record: dict[str, Any]) -> None:
        if bool(trainer.model.variational_layers) == (stage == "sparse"):
            raise RuntimeError("stop")

    return stop


@pytest.fixture(scope="module", name="whole")
def whole_run(tmp_path_factory: pytest.TempPathFactory, images: Dataset) -> tuple[Path, TrainResult]:
    """A finished run. Not to be changed: tests share it."""
    folder = tmp_path_factory.mktemp("cifar") / "run"
    return folder, train(run_dir=folder)


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_ordinary_convolutions_are_pruned_in_one_stage(method: str) -> None:
    result = train(method=method, pretrain_epochs=None, epochs=5)
    assert result.pretrained is None and len(result.history) == 5
    assert result.compression > 1.2 and result.title.startswith(METHODS[method].title)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.gated])
def test_methods_with_gates_train_convolutions(method: str, tmp_path: Path) -> None:
    """Gaussian weights start from those of a network with dropout, ordinary ones from the beginning."""
    pretrains = METHODS[method].kind == "variational"
    result = train(method=method, pretrain_epochs=1 if pretrains else None, run_dir=tmp_path)
    assert (result.pretrained is not None) == pretrains
    assert [record["stage"] for record in result.history] == ["variational", "finetune"]
    gates = [layer for layer in result.model.layers if isinstance(layer, svd.Gate)]
    assert len(gates) == len(result.model.alive()) - 1 and result.history[0]["kl"] > 0
    assert result.recipe.config.shift == 4 and result.recipe.config.mirror
    assert result.title.startswith(METHODS[method].title) and "live units" in str(result)
    if result.pretrained is not None:
        gateless = result.pretrained.model
        assert not any(isinstance(layer, svd.Gate) for layer in gateless.layers)
        start = begin(
            Options(dataset="cifar10", arch="vgg-like", method=method, width=0.05, backend="numpy"), result.data,
            result.pretrained,
        ).model  # fmt: skip
        for name, array in gateless.parameters.items():
            np.testing.assert_array_equal(start.parameters[name], array)
        for gate in (layer for layer in start.layers if isinstance(layer, svd.Gate)):
            np.testing.assert_allclose(gate.factors(), 1, rtol=1e-3)


def test_what_does_not_apply_to_a_method_is_refused() -> None:
    for wrong, words in (
        ({"method": "sbp", "pretrain_epochs": 1}, "pretrain_epochs: got 1, but method 'sbp' has one stage"),
        ({"method": "surgery", "pretrain_epochs": 2}, "pretrain_epochs: got 2, but method 'surgery' has one stage"),
        ({"kind": "dense", "pretrain_epochs": 2}, "pretrain_epochs: got 2, but kind 'dense' has one stage"),
        ({"method": "surgery", "kl_weight": 2}, "kl_weight: got 2, but method 'surgery' has no KL"),
        (
            {"method": "magnitude", "remove_above": 3.0},
            "remove_above: got 3.0, but method 'magnitude' has no log alpha",
        ),
        ({"method": "l0", "sparsity": 0.9}, "sparsity: got 0.9, but method 'l0' cannot be told one"),
    ):
        with pytest.raises(svd.SvdValueError, match=words):
            train(**{"pretrain_epochs": None, **wrong})


# ------------------------------------------------------------ a run


def test_a_run_leaves_everything_of_both_stages(whole: tuple[Path, TrainResult]) -> None:
    folder, result = whole
    before = result.pretrained
    assert before is not None and (before.kind, result.kind) == ("dropout", "variational")
    stages = [record["stage"] for record in result.history]
    assert stages == ["variational", "finetune"] and len(before.history) == 1
    first, second = ({path.name for path in place.iterdir()} for place in (folder / "pretrain", folder))
    assert first == {"checkpoints", "metrics.jsonl", "model.safetensors", "result.json", "result.txt", "summary.png"}
    assert second == {*first, "frames.npz", "log_alpha.npz", "pretrain"}

    content = json.loads((folder / "result.json").read_text())
    assert content == result.to_dict()
    assert (content["arch"], content["width"], content["n_test"]) == ("vgg-like", 0.05, 20)
    assert content["warning"] == WARNING and content["pretrained_test_error"] == before.test_error
    assert len(content["live_units"]) == len(content["layer_sparsity"]) == 15
    text = (folder / "result.txt").read_text()
    title = "Sparse VD, vgg-like of width 0.05 on cifar10, recipe 'default', seed 0 (survivors fine-tuned)"
    assert text.startswith(title)
    assert "\npre-trained" in text and "\nlive units" in text and "the paper" not in text
    assert f"NOTE: {WARNING}\nMeasured on 20 test images." in text
    figure = DRAW(result)
    assert len(figure.axes) >= 3 + 15 and "vgg-like of width 0.05 on cifar10" in figure.get_suptitle()
    loaded = svd.Sequential.load(folder / "model.safetensors", backend="numpy")
    np.testing.assert_array_equal(loaded.predict(result.data.x_test), result.model.predict(result.data.x_test))


def test_sparse_vd_starts_where_pre_training_ended(whole: tuple[Path, TrainResult], images: Dataset) -> None:
    before = whole[1].pretrained
    assert before is not None
    options = Options(dataset="cifar10", arch="vgg-like", width=0.05, backend="numpy")
    model = begin(options, images, before).model
    assert any("running_var" in name for name in before.model.state)
    for name, array in {**before.model.parameters, **before.model.state}.items():
        np.testing.assert_array_equal({**model.parameters, **model.state}[name], array)
    assert all((layer.log_sigma2 == -10).all() for layer in model.variational_layers)
    np.testing.assert_array_equal(model.input_mean, before.model.input_mean)


def test_settings_reach_both_stages(whole: tuple[Path, TrainResult]) -> None:
    first, second = (
        json.loads(next(place.glob("checkpoints/*/manifest.json")).read_text())["state"]["config"]
        for place in (whole[0] / "pretrain", whole[0])
    )
    for config in (first, second):
        assert (config["batch_size"], config["shift"], config["mirror"], config["epochs"]) == (20, 4, True, 1)
    assert (first["finetune_epochs"], second["finetune_epochs"]) == (0, 1)


def test_the_papers_recipe_is_the_authors_scripts() -> None:
    recipe = get_recipe("vgg-like", "paper")
    assert recipe.pretrain is not None and recipe.log_sigma2 == -15
    for config in (recipe.pretrain, recipe.config):
        assert (config.epochs, config.batch_size, config.lr, config.train_mask) == (200, 100, 1e-5, False)
        assert np.array_equal(config.lr_schedule, [(100, 1), (200, 0)]) and config.finetune_epochs == 0
    assert np.array_equal(recipe.config.kl_schedule, [(5, 0), (20, 1)])


# ------------------------------------------------------------ stopped and gone on with


@pytest.mark.parametrize("stage", ["dropout", "sparse"])
def test_a_stopped_run_goes_on_in_its_stage(tmp_path: Path, whole: tuple[Path, TrainResult], stage: str) -> None:
    folder, result = whole
    with pytest.raises(RuntimeError, match="stop"):
        train(run_dir=tmp_path, callbacks=[stop_in(stage)])
    assert (tmp_path / "checkpoints").exists() == (stage == "sparse") and not (tmp_path / "result.json").exists()
    with pytest.raises(ValueError, match="holds a run already"):
        train(run_dir=tmp_path)
    resumed = train(run_dir=tmp_path, resume=True)
    assert bits(resumed.model) == bits(result.model)
    for place in ("", "pretrain"):
        assert run_log(tmp_path / place) == run_log(folder / place)
    before = tree(tmp_path / "pretrain" / "checkpoints")
    again = train(run_dir=tmp_path, resume=True)
    assert again.to_dict() == resumed.to_dict() and tree(tmp_path / "pretrain" / "checkpoints") == before


def test_going_on_after_the_first_stage_was_finished(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    shutil.copytree(
        whole[0] / "pretrain", tmp_path / "pretrain"
    )  # as a run leaves it that is killed between the stages
    assert bits(train(run_dir=tmp_path, resume=True).model) == bits(whole[1].model)


def ctrl_c(trainer: Trainer, record: dict[str, Any]) -> None:
    """Press Ctrl-C in the first epoch."""
    if record["epoch"] == 1:
        signal.raise_signal(signal.SIGINT)


def test_an_extension_belongs_to_the_second_stage(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    folder, result = whole
    shutil.copytree(folder, tmp_path / "run")
    longer = train(run_dir=tmp_path / "run", resume=True, extend=1)
    assert len(longer.history) == len(result.history) + 1
    assert longer.pretrained is not None and result.pretrained is not None
    assert longer.pretrained.history == result.pretrained.history


def test_ctrl_c_while_pre_training_names_the_folder_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match=f"run_dir='{tmp_path}', resume=True"):
        train(run_dir=tmp_path, pretrain_epochs=2, callbacks=[ctrl_c])
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain"]


def test_the_command_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: Any) -> None:
        raise TrainingInterrupted(2, tmp_path)

    monkeypatch.setattr(cifar, "train_cifar", interrupted)
    assert cli.main(["train-cifar", "--width", "0.05", "--run-dir", str(tmp_path / "run")]) == 130
    assert f"svd-numpy train-cifar --run-dir {tmp_path / 'run'} --resume --width 0.05" in capsys.readouterr().err


# ------------------------------------------------------------ several runs


def test_several_runs_are_the_separate_ones(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    with pytest.raises(TrainingInterrupted, match=f"run_dir='{tmp_path}', resume=True"):
        train(kl_weight=(1, 3), run_dir=tmp_path, pretrain_epochs=2, callbacks=[ctrl_c])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kl-1"]  # whose pre-training was stopped
    shutil.rmtree(tmp_path / "kl-1")
    results = train(kl_weight=(1, 3), run_dir=tmp_path)
    assert [bits(one.model) for one in results] == [bits(whole[1].model), bits(train(kl_weight=3).model)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kl-1", "kl-3", "results.png", "results.txt"]
    assert run_log(tmp_path / "kl-1" / "pretrain") == run_log(whole[0] / "pretrain")
    shutil.rmtree(tmp_path / "kl-3" / "checkpoints")  # as if the second stage of one had not begun
    (tmp_path / "kl-3" / "metrics.jsonl").unlink()
    again = train(kl_weight=(1, 3), run_dir=tmp_path, resume=True)
    assert [bits(one.model) for one in again] == [bits(one.model) for one in results]
    with pytest.raises(ValueError, match=r"kl-1 holds a run already; choose another folder, or resume=True"):
        train(kl_weight=(1, 2), run_dir=tmp_path)


# ------------------------------------------------------------ other starts, random labels


def test_given_weights_take_the_place_of_pre_training(tmp_path: Path, whole: tuple[Path, TrainResult]) -> None:
    start = whole[0] / "pretrain" / "model.safetensors"
    result = train(init_from=start, pretrain_epochs=None, run_dir=tmp_path)
    assert result.init_from and result.to_dict()["init_from"]
    assert result.pretrained is None and bits(result.model) == bits(whole[1].model)  # the weights are the same ones
    assert not (tmp_path / "pretrain").exists() and "pre-trained" not in str(result)
    settings = {"pretrain_epochs": None, "run_dir": tmp_path, "resume": True}
    with pytest.raises(ValueError, match="began without pre-training, but this call asks for one with it"):
        train(**settings)
    assert bits(train(**settings, init_from=start).model) == bits(result.model)


def test_random_labels_in_both_stages(tmp_path: Path, images: Dataset) -> None:
    result = train(random_labels=True, dataset="cifar100", pretrain_epochs=0, run_dir=tmp_path)
    assert result.pretrained is None and not (tmp_path / "pretrain").exists()
    assert result.dataset == "cifar100, random labels" and "on cifar100, random labels" in str(result)
    assert (result.data.y_train != images.y_train).mean() > 0.6
    np.testing.assert_array_equal(result.data.y_test, images.y_test)
    with pytest.raises(ValueError, match="another config"):
        train(dataset="cifar100", pretrain_epochs=0, run_dir=tmp_path, resume=True)
    both = train(random_labels=True)
    assert both.pretrained is not None
    np.testing.assert_array_equal(both.pretrained.data.y_train, both.data.y_train)
    np.testing.assert_array_equal(both.data.y_train, result.data.y_train)


def test_the_networks_to_compare_with_have_one_stage(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        train(kind="dense", epochs=2, pretrain_epochs=None, run_dir=tmp_path, callbacks=[stop_in("dense")])
    result = train(kind="dense", epochs=2, pretrain_epochs=None, run_dir=tmp_path, resume=True)
    assert result.pretrained is None and (result.kind, result.compression) == ("dense", 1)
    assert [record["epoch"] for record in result.history] == [1, 2] and not (tmp_path / "pretrain").exists()
    assert not result.model.variational_layers and result.history[-1]["lr"] < result.history[0]["lr"]
    whole = train(kind="dense", epochs=2, pretrain_epochs=None)
    assert bits(whole.model) == bits(result.model)


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"dataset": "mnist"}, ValueError, "dataset: got 'mnist', expected one of"),
        ({"arch": "lenet-5"}, ValueError, "arch: got 'lenet-5', expected one of"),
        ({"width": 0}, ValueError, "width: got 0, expected"),
        ({"width": "wide"}, TypeError, "width: got 'wide'"),
        ({"recipe": "best"}, ValueError, "recipe: got 'best'"),
        ({"epochs": 0}, ValueError, "epochs: got 0"),
        ({"pretrain_epochs": -1}, ValueError, "pretrain_epochs: got -1"),
        ({"init_from": "x.safetensors"}, ValueError, "replaces it; leave one of them out"),
        ({"init_from": "nowhere.safetensors", "pretrain_epochs": None}, CheckpointError, "nowhere.safetensors"),
        ({"batch_size": 39}, ValueError, "leaves one of 40 images over"),
        ({"kind": "sparse"}, ValueError, "kind: got 'sparse'"),
        ({"kind": "dense", "kl_weight": 2}, ValueError, "kl_weight: got 2, but kind .dense. has no KL"),
        ({"kind": "dense"}, ValueError, "pretrain_epochs: got 1, but kind 'dense' has one stage"),
        ({"random_labels": None}, TypeError, "random_labels: got None"),
        ({"resume": True}, ValueError, "holds no run to continue"),
        ({"resume": True, "run_dir": None}, ValueError, "resume=True needs run_dir"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(**({"run_dir": tmp_path / "run"} | changes))
    assert list(tmp_path.iterdir()) == []
