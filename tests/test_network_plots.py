"""Figures of networks before and after training show the weights and outputs they were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import svd_numpy as svd
from svd_numpy import plots
from svd_numpy.cli import main as cli
from svd_numpy.data import load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run_files import run_figures, save_log_alphas
from svd_numpy.plots.figures import at_start, network_figures

THRESHOLD = 3.0
SHAPE = (2, 3, 4)  # channels, height, width


def make_filters(count: int = 7) -> dict[str, Any]:
    """Weights of filters of 2 channels of 3 x 4: filters 2 and 5 dead."""
    rng = np.random.default_rng(0)
    before, noise = rng.normal(size=(2, 24, count))
    log_alpha = 3 + 2 * noise
    log_alpha[:, [2, 5]] = 9.0
    return {"before": before, "after": np.where(log_alpha <= THRESHOLD, before + 1, 0), "log_alpha": log_alpha}


def draw_filters(n: int = 64, **changes: Any) -> Figure:
    given = {**make_filters(), "threshold": THRESHOLD, "image_shape": SHAPE, **changes}
    return plots.filters(**given, n=n)


def make_maps() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    before, after = ({"conv1": rng.random((5, 6, 6)), "conv2": rng.random((3, 2, 2))} for _ in range(2))
    live = {"conv1": np.array([True, False, True, True, False]), "conv2": np.ones(3, bool)}
    return {"image": rng.random((1, 10, 10)), "before": before, "after": after, "live": live}


def picture(ax: Any) -> np.ndarray:
    """Values of the image on an axes, NaN where blank."""
    filled: np.ndarray = np.ma.filled(ax.get_images()[0].get_array(), np.nan)
    return filled


def tile(ax: Any, row: int, column: int, height: int, width: int) -> np.ndarray:
    top, left = row * (height + 1) + 1, column * (width + 1) + 1
    return picture(ax)[top : top + height, left : left + width]


def crossed_out(ax: Any) -> int:
    """How many tiles are crossed out, with two lines each."""
    (lines,) = [one for one in ax.collections if isinstance(one, LineCollection)]
    return len(lines.get_segments()) // 2


def boxes(figure: Figure) -> list[tuple[str, Any]]:
    canvas: Any = FigureCanvasAgg(figure)
    renderer, found = canvas.get_renderer(), []
    figure.draw(renderer)
    for ax in figure.axes:
        for text in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts):  # type: ignore[attr-defined]
            if text.get_text():
                found.append((text.get_text(), text.get_window_extent(renderer)))
    if figure._suptitle is not None:  # type: ignore[attr-defined]
        found.append((figure.get_suptitle(), figure._suptitle.get_window_extent(renderer)))  # type: ignore[attr-defined]
    return found


# ------------------------------------------------------------------------------------------------- the figures


def test_filters_lie_at_the_same_place_in_all_three_mosaics() -> None:
    given = make_filters()
    first, noise, last = draw_filters().axes[:3]
    for index in range(7):  # two columns of 3 x 8, channels side by side
        place = (*divmod(index, 2), 3, 8)
        of_filter = {name: array[:, index].reshape(SHAPE) for name, array in given.items()}
        wide = {name: np.concatenate(list(array), axis=1) for name, array in of_filter.items()}
        np.testing.assert_array_equal(tile(first, *place), wide["before"])
        np.testing.assert_allclose(tile(noise, *place), wide["log_alpha"])
        np.testing.assert_array_equal(tile(last, *place), np.where(wide["after"] == 0, np.nan, wide["after"]))
    assert [crossed_out(ax) for ax in (first, noise, last)] == [0, 0, 2]
    for ax in (first, last):
        low, high = ax.get_images()[0].get_clim()
        assert low == -high < 0
    assert "5 of 7 filters live" in draw_filters().get_suptitle()


@pytest.mark.parametrize("threshold", [THRESHOLD, 0.1])
def test_noise_is_blue_up_to_the_threshold_and_grey_above(threshold: float) -> None:
    image = draw_filters(threshold=threshold).axes[1].get_images()[0]
    at = np.float32(threshold)
    kept, pruned = (image.cmap(image.norm(float(value))) for value in (at, np.nextafter(at, np.float32(9))))
    assert kept[2] - kept[0] > 0.1  # blue
    assert abs(pruned[2] - pruned[0]) < 0.05  # grey


def test_of_many_filters_those_with_most_weights_are_drawn() -> None:
    given = make_filters()
    figure = draw_filters(n=2)
    best = np.sort(np.argsort(-np.count_nonzero(given["after"], axis=0), kind="stable")[:2])
    for index, unit in enumerate(best):
        wide = np.concatenate(list(given["before"][:, unit].reshape(SHAPE)), axis=1)
        np.testing.assert_array_equal(tile(figure.axes[0], index, 0, 3, 8), wide)
    assert "5 of 7 filters live, the 2 with most weights" in figure.get_suptitle()


def test_matrix_shows_its_middle_and_white_where_pruned() -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(size=(30, 11))
    after = before * (rng.random((30, 11)) < 0.2)
    figure = plots.weight_matrix(before, after, size=12, name="dense1")
    first, last = figure.axes[:2]
    np.testing.assert_array_equal(picture(first), before[9:21])
    piece = after[9:21]
    np.testing.assert_array_equal(picture(last), np.where(piece == 0, np.nan, piece))
    assert last.get_images()[0].cmap.get_bad().tolist() == [1, 1, 1, 1]
    assert list(last.get_images()[0].get_extent()) == [-0.5, 10.5, 20.5, 8.5]
    assert f"{np.count_nonzero(piece)} of {piece.size} weights" in last.get_title("left")
    share = 100 * np.count_nonzero(after) / after.size
    assert figure.get_suptitle().startswith("dense1, 30 by 11") and f"{share:.3g} %" in figure.get_suptitle()


def test_feature_maps_cross_out_dead_filters_after_training_only() -> None:
    given = make_maps()
    figure = plots.feature_maps(**given)
    rows = np.array(figure.axes[1:]).reshape(2, 2)
    stretched = (given["image"][0] - given["image"].min()) / np.ptp(given["image"])
    np.testing.assert_allclose(picture(figure.axes[0]), stretched)
    for row, name in zip(rows, ("conv1", "conv2"), strict=True):
        maps = given["after"][name]
        size = maps.shape[1]
        for index, alive in enumerate(given["live"][name]):
            place = (*divmod(index, 3), size, size)
            np.testing.assert_array_equal(tile(row[0], *place), given["before"][name][index])
            np.testing.assert_array_equal(tile(row[1], *place), maps[index] if alive else np.full((size, size), np.nan))
    assert [crossed_out(ax) for ax in rows.ravel()] == [0, 2, 0, 0]
    assert "conv1 after: 3 of 5 filters live" in rows[0, 1].get_title("left")


def test_live_units_are_bars_in_percent_with_counts() -> None:
    figure = plots.live_units({"conv1": (5, 20), "dense1": (0, 500), "dense2": (10, 10)})
    (ax,) = figure.axes
    everything, live = ax.containers
    assert [bar.get_width() for bar in everything] == [100, 100, 100]
    assert [bar.get_width() for bar in live] == [25, 0, 100]
    assert [text.get_text() for text in ax.texts] == ["5 of 20", "0 of 500", "10 of 10"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conv1", "dense1", "dense2"]
    assert ax.yaxis_inverted() and "15 of 530" in figure.get_suptitle()


def test_no_text_lies_over_another_or_off_the_page() -> None:
    rng = np.random.default_rng(3)
    figures = [
        draw_filters(),
        plots.weight_matrix(rng.normal(size=(100, 100)), np.zeros((100, 100)), name="dense1"),
        plots.feature_maps(**make_maps()),
        plots.live_units({f"conv{index}": (index, 512) for index in range(17)}),
    ]
    for figure in figures:
        found = boxes(figure)
        for index, (name, box) in enumerate(found):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
            assert not any(box.overlaps(other) for _, other in found[index + 1 :]), name


def test_a_network_without_survivors_can_be_drawn() -> None:
    nothing = np.zeros((24, 7))
    assert crossed_out(draw_filters(after=nothing).axes[2]) == 7
    assert "0 % of the weights" in plots.weight_matrix(nothing, nothing).get_suptitle()
    maps = make_maps()
    maps["live"] = {name: np.zeros_like(live) for name, live in maps["live"].items()}
    assert crossed_out(plots.feature_maps(**maps).axes[2]) == 5


# -------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_shape": (5, 5)}, "does not fit theta with 24 inputs"),
        ({"before": np.zeros((24, 6))}, r"before has shape \(24, 6\)"),
        ({"after": np.full((24, 7), np.inf)}, "theta holds NaN or infinity"),
        ({"log_alpha": np.zeros((24, 6))}, "log_alpha has shape"),
        ({"log_alpha": np.full((24, 7), np.nan)}, "without NaN"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_bad_filters_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_filters(**changes)


def test_bad_matrices_maps_and_counts_are_refused() -> None:
    square = np.ones((3, 3))
    with pytest.raises(ValueError, match="after has shape"):
        plots.weight_matrix(square, np.ones(9))
    with pytest.raises(ValueError, match="size is 0"):
        plots.weight_matrix(square, square, size=0)
    maps = make_maps()
    with pytest.raises(ValueError, match="one channel or three"):
        plots.feature_maps(**{**maps, "image": square})
    with pytest.raises(ValueError, match="expected the same"):
        plots.feature_maps(**{**maps, "before": {}})
    with pytest.raises(ValueError, match="layer 'conv1': got shapes"):
        plots.feature_maps(**{**maps, "live": {**maps["live"], "conv1": np.ones(4, bool)}})
    with pytest.raises(ValueError, match="live is empty"):
        plots.live_units({})
    with pytest.raises(ValueError, match="got 3 live of 2"):
        plots.live_units({"dense1": (3, 2)})


# ------------------------------------------------------------------------------------ from networks and folders


def make_result(arch: str = "lenet-5", **changes: Any) -> TrainResult:
    """A "trained" network on digits: weights moved from their start, two filters of the first layer dead."""
    data = load("digits")
    recipe = get_recipe(arch, "default")
    model = build(data, recipe, 3, "numpy")
    first = model.variational_layers[0]
    first.theta[...] += 1
    first.theta[:, :2] = 0
    alphas = svd.log_alpha(model)
    record = {
        "epoch": 1, "stage": "variational", "nll": 1.0, "test_nll": 1.0, "kl": 1.0, "kl_weight": 1.0, "lr": 1e-3,
        "train_error": 0.5, "test_error": 0.5, "sparsity": svd.measure_sparsity(model).by_layer, "compression": 2.0,
        "seconds": 1.0, "living": 430_500, "forms": {}, "ms_per_step": 1.0,
    }  # fmt: skip
    return TrainResult(model, [record], recipe, data, alphas, **changes)


def test_weights_at_the_start_are_those_of_the_seed() -> None:
    data, recipe = load("digits"), get_recipe("lenet-5", "paper")  # it subtracts the mean image
    fresh = build(data, recipe, 3, "numpy")
    trained = fresh.copy()
    trained.init_from({name: array + 1 for name, array in fresh.parameters.items() if name.endswith(".theta")})
    start = at_start(trained)
    for name, array in fresh.arrays().items():
        np.testing.assert_array_equal(start.arrays()[name], array)
    plain = build(data, recipe, 8, "numpy", "dense")
    start = at_start(trained, plain)
    np.testing.assert_array_equal(start.parameters["conv2.theta"], plain.parameters["conv2.theta"])


def test_result_draws_its_network_before_and_after() -> None:
    result = make_result()
    seed = build(result.data, result.recipe, 3, "numpy").parameters["conv1.theta"]
    first, _, last = result.plot("filters").axes[:3]
    np.testing.assert_array_equal(tile(first, 0, 2, 5, 5), seed[:, :, 0, 2])
    np.testing.assert_array_equal(tile(last, 0, 2, 5, 5), result.model.parameters["conv1.theta"][:, :, 0, 2])
    assert crossed_out(last) == 2
    matrix = result.plot("weight_matrix")
    assert matrix.get_suptitle().startswith("dense1, 800 by 500")
    maps = result.plot("feature_maps").axes
    assert "conv1 after: 18 of 20 filters live" in maps[2].get_title("left")
    np.testing.assert_allclose(np.asarray(picture(maps[0])) * 255, result.data.x_test[0].reshape(28, 28) * 1.0, atol=20)
    outputs = result.model.activations(result.data.x_test[:1].reshape(1, 1, 28, 28))
    shown = tile(maps[2], 0, 2, 24, 24)
    np.testing.assert_array_equal(shown, np.maximum(outputs["conv1"][0, 2], 0))
    assert (shown >= 0).all() and shown.max() > 0
    assert "18 of 20" in [text.get_text() for text in result.plot("live_units").axes[0].texts]
    assert any("dead filters: 2 of 20" in ax.get_title("left") for ax in result.plot().axes)


def test_result_refuses_figures_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"what: got 'weights', expected one of .*'filters'"):
        make_result().plot("weights")
    dense = make_result("lenet-300-100")
    assert "298 of 300 hidden units live" in dense.plot("filters").get_suptitle()
    with pytest.raises(ValueError, match="feature_maps"):
        dense.plot("feature_maps")
    with pytest.raises(ValueError, match="filters"):  # its start is not known
        make_result(init_from=True).plot("filters")


def test_feature_maps_of_a_batch_normalised_network_are_rectified() -> None:
    model = svd.Sequential(
        svd.VariationalConv2d(3, 4, 3, padding=1), svd.BatchNorm(4), svd.ReLU(), svd.MaxPool2d(2),
        svd.VariationalConv2d(4, 5, 3), svd.Flatten(), svd.VariationalDense(180, 2),
        input_shape=(3, 16, 16), backend="numpy",
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    figures = network_figures(model, at_start(model), {}, THRESHOLD, (3, 16, 16), image)
    assert set(figures) == {"live_units", "weight_matrix", "feature_maps"}  # without log_alpha no filters
    rows = np.array(figures["feature_maps"]().axes[1:]).reshape(2, 2)
    outputs = model.activations(image[None])
    assert outputs["conv1"].shape == (1, 4, 16, 16) and outputs["dense1"].shape == (1, 2)
    np.testing.assert_array_equal(tile(rows[0, 1], 1, 1, 16, 16), outputs["relu1"][0, 3])
    np.testing.assert_array_equal(tile(rows[1, 1], 1, 1, 6, 6), outputs["conv2"][0, 4])
    np.testing.assert_array_equal(outputs["dense1"], model.predict(image[None]))


def figures_of(folder: Path, result: TrainResult, image: np.ndarray | None) -> dict[str, Any]:
    return run_figures(folder, result.history, lambda: image)


def test_report_draws_a_folder_of_a_convolutional_run(tmp_path: Path) -> None:
    result = make_result()
    model_file, result_file = tmp_path / "model.safetensors", tmp_path / "result.json"
    result.model.save(model_file)
    result_file.write_text(json.dumps(result.to_dict()))
    always = {"training_curves", "live_units"}
    assert set(figures_of(tmp_path, result, None)) == always | {"weight_matrix"}
    save_log_alphas(tmp_path / "log_alpha.npz", {"conv1": result.log_alphas["conv1"]}, 3.0)
    figures = figures_of(tmp_path, result, result.data.x_test[0])
    assert set(figures) == always | {"log_alpha", "filters", "weight_matrix", "feature_maps"}
    np.testing.assert_array_equal(picture(figures["filters"].axes[0]), picture(result.plot("filters").axes[0]))

    pretrained = build(result.data, result.recipe, 8, "numpy", "dropout")
    (tmp_path / "pretrain").mkdir()
    pretrained.save(tmp_path / "pretrain" / "model.safetensors")
    first = figures_of(tmp_path, result, None)["filters"].axes[0]
    np.testing.assert_array_equal(tile(first, 0, 2, 5, 5), pretrained.parameters["conv1.theta"][:, :, 0, 2])

    result_file.write_text(json.dumps(make_result(init_from=True).to_dict()))
    assert set(figures_of(tmp_path, result, None)) == always | {"log_alpha"}


def test_report_on_the_command_line_looks_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = make_result()
    result.model.save(tmp_path / "model.safetensors")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"schema": 1, "non_finite": 0.0, **result.history[0]}) + "\n")
    entries = result.to_dict()
    (tmp_path / "result.json").write_text(json.dumps(entries))
    assert cli.main(["report", str(tmp_path)]) == 0
    drawn = tmp_path / "figures" / "feature_maps.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")
    drawn.unlink()
    (tmp_path / "result.json").write_text(json.dumps({**entries, "dataset": "mnist"}))
    (tmp_path / "nothing").mkdir()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path), "--data-dir", str(tmp_path / "nothing")]) == 0
    assert "NOTE: the feature maps are left out: they need an image" in capsys.readouterr().out and not drawn.exists()


def test_activations_agree_between_backends() -> None:
    images = np.random.default_rng(4).random((3, 1, 12, 12), dtype=np.float32)
    layers = svd.VariationalConv2d(1, 4, 5), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(), svd.VariationalDense(64, 3)
    slow = svd.Sequential(*layers, input_shape=(1, 12, 12), backend="numpy")
    expected = slow.activations(images)
    assert list(expected) == ["conv1", "relu1", "max_pool1", "flatten1", "dense1"]
    assert expected["conv1"].min() < 0 == expected["relu1"].min()  # the ReLU works in place, on a copy
    for backend in (name for name, reason in svd.available_backends().items() if not reason):
        for name, outputs in slow.copy(backend=backend).activations(images).items():
            np.testing.assert_allclose(outputs, expected[name], rtol=1e-4, atol=1e-5)
