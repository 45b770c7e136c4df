"""Accounts of size: published figures, outside libraries, and counts done by hand."""

from __future__ import annotations

import importlib
import io
import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from matplotlib.figure import Figure
from sparse_tools import NETWORKS, kill, lenet_5, vgg_like

import svd_numpy as svd
from svd_numpy.experiments.published import ROWS
from svd_numpy.network.sparsity import freeze
from svd_numpy.plots import compression_accounts
from svd_numpy.sparse import ConvOp, DenseOp
from svd_numpy.sparse.storage.accounts import LayerSize, by_layers, csr_bytes, gap_bits, layer_sizes, zipped


def lenet_300_100_with(kept: tuple[int, ...]) -> svd.Sequential:
    """784-300-100-10 with these numbers of weights left in the layers, at random places."""
    sizes = (784, 300, 100, 10)
    layers = [svd.Dense(i, o) for i, o in pairwise(sizes)]
    model = svd.Sequential(layers[0], svd.ReLU(), layers[1], svd.ReLU(), layers[2])
    rng = np.random.default_rng(0)
    for layer, count in zip(layers, kept, strict=True):
        theta = np.zeros(layer.theta.size)
        theta[rng.choice(theta.size, count, replace=False)] = rng.standard_normal(count)
        layer.theta[...] = theta.reshape(layer.theta.shape)
        layer.bias[...] = rng.standard_normal(layer.bias.shape)
    return model


def test_the_published_lenet_300_100_counted_in_many_ways() -> None:
    """98.9-97.2-62.0 % zeros (Molchanov et al. 2017, table 1) leave 3807 weights: ratio 68 there, 33 with indices."""
    report = svd.sizes(lenet_300_100_with((2587, 840, 380)))
    assert report["weights"].ratio == pytest.approx(266_200 / 3807)
    assert report["weights and biases"].ratio == pytest.approx(266_610 / (3807 + 410))
    assert report["CSR, 32-bit indices"].ratio == pytest.approx(33.2, abs=0.05)
    assert report["CSR, 16-bit indices"].ratio == pytest.approx(43.5, abs=0.05)
    # With 8-bit gaps in all layers the ratio is 53.6, averaged over random places; the best width per layer gives more.
    matrices = [theta for name, theta in lenet_300_100_with((2587, 840, 380)).parameters.items() if "theta" in name]
    assert 8 * 4 * 266_200 / sum(gap_bits(m, 8, 32) for m in matrices) == pytest.approx(53.6, rel=0.01)
    assert 8 * 4 * 266_200 / sum(gap_bits(m, 5, 32) for m in matrices) == pytest.approx(22.0, rel=0.02)
    assert 8 * 4 * 266_200 / sum(gap_bits(m, 5, 5) for m in matrices) == pytest.approx(81.4, rel=0.02)
    assert 53.6 < report["gaps, best gap width per layer"].ratio < 60


MATRICES = {  # weights of every layer; a kernel has the inputs and outputs of its last two axes
    "lenet-300-100": ((784, 300), (300, 100), (100, 10)),
    "lenet-5": ((5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)),
    "vgg-like": (
        *((3, 3, i, o) for i, o in pairwise((3, 64, 64, 128, 128, *(256,) * 3, *(512,) * 6))), (512, 512), (512, 10)
    ),
}  # fmt: skip


def pruned_to(arch: str, left: str, bits: tuple[int, ...]) -> list[LayerSize]:
    """The layers of a published network: live filters and flattened inputs, as the papers list them, and bits."""
    shapes, live = MATRICES[arch], [int(units) for units in left.split("-")]
    convolutions = sum(len(shape) == 4 for shape in shapes)
    first = [shapes[0][-2], *live[:convolutions]] if convolutions else live[:1]
    ends = [*pairwise(first), *pairwise([*live[convolutions:], 10])]
    return [
        LayerSize(f"layer{n}", shape, math.prod(shape[:-2]) * i * o, (i, o), (0, 0), 1, width)
        for n, (shape, (i, o), width) in enumerate(zip(shapes, ends, bits, strict=True))
    ]


@pytest.mark.parametrize(
    ("name", "left", "ratios"),
    [
        ("300-100 bc-gnj", None, (9.29, 36.8)),
        ("300-100 bc-ghs", None, (9.48, 23.5)),
        ("lenet-5 bc-gnj", "8-13-88-12", (108.3, 361.8)),  # they print 13 units, but count 12
        ("lenet-5 bc-gnj", None, (105.7, 355.3)),
        ("lenet-5 bc-ghs", None, (156.5, 419.3)),
        ("vgg-like bc-gnj", None, (14.96, 56.8)),
        ("vgg-like bc-ghs", None, (18.2, 59.9)),
    ],
)
def test_the_figures_of_bayesian_compression(name: str, left: str | None, ratios: tuple[float, float]) -> None:
    """Louizos et al. 2017, table 1, prints those of sub-matrices and of bits without their fraction."""
    row = ROWS[name]
    layers = pruned_to(row.arch, left or row.left, row.bits)
    alone = by_layers([replace(layer, bits=32) for layer in layers])["few bits, live sub-matrices"].ratio
    few = by_layers(layers)["few bits, live sub-matrices"].ratio
    assert (alone, few) == (pytest.approx(ratios[0], abs=0.05), pytest.approx(ratios[1], abs=0.05))
    if left or name != "lenet-5 bc-gnj":
        assert (int(alone), int(few)) == (int(row.compression), row.few_bits)


@pytest.mark.parametrize(("all_to_kept", "printed"), [(12, 6), (111, 55), (200, 100)])
def test_their_rows_of_single_weights_have_an_index_as_wide_as_a_value(all_to_kept: int, printed: int) -> None:
    """Deep compression, network surgery and soft weight-sharing on LeNet-5, in the same table."""
    layers = pruned_to("lenet-5", "20-50-800-500", (32,) * 4)
    kept = [replace(layer, kept=layer.weights / all_to_kept) for layer in layers]  # type: ignore[arg-type]
    assert int(by_layers(kept)["few bits, an index as wide"].ratio) == printed


def test_the_layers_are_those_of_the_network() -> None:
    """A network of that architecture, counted by `sizes`, gives the published figures, too."""
    row, layers = ROWS["300-100 bc-gnj"], [svd.Dense(i, o) for i, o in MATRICES["lenet-300-100"]]
    model = svd.Sequential(layers[0], svd.ReLU(), layers[1], svd.ReLU(), layers[2])
    bits = {f"{layer.name}.theta": width for layer, width in zip(layers, row.bits, strict=True)}
    for layer, size in zip(layers, pruned_to(row.arch, row.left, row.bits), strict=True):
        layer.theta[size.live[0] :] = 0
        layer.theta[:, size.live[1] :] = 0
    found = layer_sizes(model, bits=bits)
    assert [(size.live, size.bits) for size in found] == [((278, 98), 8), ((98, 13), 9), ((13, 10), 14)]
    assert int(by_layers(found)["few bits, live sub-matrices"].ratio) == row.few_bits == 36


def test_multiplications_of_structured_bayesian_pruning() -> None:
    """784-500-300-10 with 245-160-55 live: 11.23 times fewer (Neklyudov et al. 2017, table 1)."""
    sizes, live = (784, 500, 300, 10), (245, 160, 55, 10)
    layers = [svd.Dense(i, o) for i, o in pairwise(sizes)]
    model = svd.Sequential(layers[0], svd.ReLU(), layers[1], svd.ReLU(), layers[2])
    for layer, n_in, n_out in zip(layers, live, live[1:], strict=False):
        layer.theta[n_in:] = 0
        layer.theta[:, n_out:] = 0
    report = svd.sizes(model)
    assert [layer.live for layer in report.layers] == [(245, 160), (160, 55), (55, 10)]
    account = report["multiplications, live sub-matrices"]
    assert (account.before, round(account.ratio, 2)) == (545_000, 11.23)
    assert report["multiplications, kept weights"].after == account.after  # live sub-matrices are full here


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_of_layers(name: str) -> None:
    model = kill(NETWORKS[name](), 0.3)
    report, small = svd.sizes(model), svd.compress(model, backend="numpy")
    ops = {op.name: op for op in small.ops if isinstance(op, DenseOp | ConvOp)}
    kept = {name: np.count_nonzero(theta) for name, theta in svd.sparsify(model).parameters.items() if "theta" in name}
    assert {f"{layer.name}.theta": layer.kept for layer in report.layers} == kept
    assert report["weights"].before == sum(model.parameters[name].size for name in kept)
    for layer in report.layers:
        assert layer.bits == 32
        assert layer.live[1] == ops[layer.name].weights.shape[1]
    compact = svd.sizes(small)
    assert [layer.name for layer in compact.layers] == list(ops)
    assert compact["weights"].after == sum(op.weights.kept for op in ops.values())
    assert compact["weights"].before == report["weights"].before
    assert compact["packed file"].after == len(svd.pack(small))


def test_multiplications_of_convolutions() -> None:
    model = lenet_5()
    by_hand = 24 * 24 * 25 * 6 + 10 * 10 * 9 * 6 * 9 + 225 * 40 + 40 * 10
    report = svd.sizes(model, threshold=60)
    assert report["multiplications, kept weights"].before == by_hand
    assert report["multiplications, kept weights"].after == by_hand  # nothing is pruned


def test_csr_bytes_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    matrix = np.where(rng.random((70, 33)) < 0.1, rng.standard_normal((70, 33)), 0).astype(np.float32)
    csr = scipy.sparse.csr_matrix(matrix.T)
    assert csr_bytes(matrix, 4) == csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes


@pytest.mark.parametrize("gap", [1, 2, 5])
def test_gaps_with_padding_zeros(gap: int) -> None:
    """Write the list that Deep Compression describes, and read the matrix back from it."""
    rng = np.random.default_rng(gap)
    matrix = np.where(rng.random((40, 25)) < 0.1, rng.standard_normal((40, 25)), 0)
    entries, zeros = list[tuple[int, float]](), 0
    for value in matrix.T.ravel():
        if value or zeros == 2**gap - 1:
            if value or np.any(matrix.T.ravel()[sum(n + 1 for n, _ in entries) + zeros :]):
                entries.append((zeros, value))
            zeros = 0
        else:
            zeros += 1
    read = np.zeros(matrix.size)
    at = -1
    for distance, value in entries:
        at += distance + 1
        read[at] = value
    assert np.array_equal(read.reshape(matrix.T.shape), matrix.T)
    assert gap_bits(matrix, gap, 6) == len(entries) * (gap + 6)


def test_few_bits_are_counted_where_there_are_few() -> None:
    small = svd.compress(kill(lenet_5(), 0.3), backend="numpy")
    tiny = svd.quantise(small, {f"{name}.theta": 5 for name in ("conv1", "conv2", "dense1", "dense2")})
    report = svd.sizes(tiny)
    assert all(2 <= layer.bits <= 5 for layer in report.layers)
    kept = {layer.name: layer.kept for layer in report.layers}
    by_hand = sum(2 * layer.bits * kept[layer.name] for layer in report.layers) / 8
    assert report["few bits, an index as wide"].after == by_hand
    area = sum(layer.bits * np.prod(layer.before[:-2]) * np.prod(layer.live) for layer in report.layers) / 8
    assert report["few bits, live sub-matrices"].after == area
    given = svd.sizes(small, bits={"dense1.theta": 7})
    narrow, wide = given["few bits, an index as wide"].after, svd.sizes(small)["few bits, an index as wide"].after
    assert wide - narrow == pytest.approx(2 * 25 / 8 * {layer.name: layer.kept for layer in given.layers}["dense1"])


def test_the_zip_file_holds_the_network() -> None:
    small = svd.compress(kill(vgg_like(), 0.3), backend="numpy")
    with np.load(io.BytesIO(zipped(small)), allow_pickle=False) as arrays:
        for op in small.ops:
            if isinstance(op, DenseOp | ConvOp):
                assert np.array_equal(arrays[f"{op.name}.values"], op.weights.values)
                assert np.array_equal(arrays[f"{op.name}.bias"], op.bias)


def test_the_threshold_counts() -> None:
    model = kill(lenet_5(), 0.3)
    strict, loose = (svd.sizes(model, threshold)["weights"].after for threshold in (-20.0, 20.0))
    assert strict < svd.sizes(model)["weights"].after < loose


def test_an_empty_network_has_sizes() -> None:
    model = lenet_5()
    for layer in model.variational_layers:
        layer.log_sigma2[...] = 10
    report = svd.sizes(model)
    assert report["weights"].after == 0 and all(layer.live[0] == 0 for layer in report.layers)
    assert np.isfinite([account.ratio for account in report.accounts]).all()
    assert "packed file" in str(report)


def test_the_report_names_who_counts_this_way() -> None:
    report = svd.sizes(kill(lenet_5(), 0.3))
    text = str(report)
    for account in report.accounts:
        assert re.search(rf"^{re.escape(account.what)} .* {account.ratio:.1f}x  {account.source}$", text, re.MULTILINE)
    for paper in ("Molchanov et al. 2017", "Han et al. 2016", "Louizos et al. 2017", "Neklyudov et al. 2017"):
        assert paper in text
    assert re.search(r"^conv2 +3 x 3 x 6 x 9 ", text, re.MULTILINE)


def test_the_picture_has_a_bar_for_every_account() -> None:
    report = svd.sizes(kill(lenet_5(), 0.3))
    figure = report.plot("LeNet-5")
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    widths = [patch.get_width() for patch in ax.patches]  # type: ignore[attr-defined]
    assert widths == [account.ratio for account in report.accounts]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{account.what}\n{account.source}" for account in report.accounts]
    figure.canvas.draw()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_table_of_finished_runs(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/sizes.py on two runs, with and without a posterior."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    script = importlib.import_module("sizes")
    monkeypatch.setattr(script, "OUT", tmp_path / "results")
    for seed in range(2):
        layers = svd.VariationalDense(784, 12), svd.ReLU(), svd.VariationalDense(12, 10)
        model = svd.Sequential(*layers, backend="numpy", seed=seed)
        svd.fit(model, svd.load("digits"), svd.TrainConfig(epochs=3, batch_size=100, lr=0.01, kl_schedule=((0, 0.0),)))
        if frozen:
            freeze(model, 3)
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        model.save(folder / "model.safetensors")
        facts = {"arch": "tiny", "dataset": "digits", "recipe": "none"}
        (folder / "result.json").write_text(json.dumps(facts))
    script.write([script.measure(tmp_path / f"run{seed}", None, 0.01) for seed in range(2)], 0.01)
    found = json.loads((tmp_path / "results" / "sizes.json").read_text())["runs"]
    assert [set(run["posterior_bits"]) for run in found] == [set() if frozen else {"deviation", "variance"}] * 2
    ratios = [run["rounded"]["accounts"]["packed file"]["ratio"] for run in found]
    text = (tmp_path / "results" / "sizes.md").read_text()
    cell = f"{np.mean(ratios):.1f} ± {np.std(ratios, ddof=1):.1f}x"
    assert re.search(rf"^\| packed file \| [^|]+ \| {cell} \| every byte of a file \|$", text, re.MULTILINE)


def test_wrong_calls() -> None:
    with pytest.raises(TypeError, match="expected a Sequential or a SparseModel"):
        svd.sizes("net.svdz")  # type: ignore[arg-type]
    small = svd.compress(kill(lenet_5(), 0.3), backend="numpy")
    with pytest.raises(ValueError, match="pruned already"):
        svd.sizes(small, threshold=3.0)
    with pytest.raises(ValueError, match=r"got \['dense7\.theta'\], expected names of"):
        svd.sizes(small, bits={"dense7.theta": 4, "dense1.bias": 3})
    for accounts in ([], [("weights", "a paper", 0.0)], [("weights", "a paper", float("nan"))]):
        with pytest.raises(ValueError, match="finite ratios above 0"):
            compression_accounts(accounts)
