"""The papers' rows: their figures, and a quick run beside them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.experiments import reproduce as module
from svd_numpy.experiments.counts import Counts, count
from svd_numpy.experiments.hours import Cost, estimate
from svd_numpy.experiments.published import BLOCKS, ROWS
from svd_numpy.experiments.recipes import PUBLISHED

pytestmark = pytest.mark.usefixtures("blank_pictures")
ROW_NAMES = ["300-100 dense", "300-100 magnitude"]
WORDS = ["--quick", "--epochs", "3", "--backend", "numpy", "--no-progress"]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.measure == BLOCKS])
def test_compressions_of_dense_matrices_follow_from_the_live_units(name: str) -> None:
    row = ROWS[name]
    live = [int(units) for units in row.left.split("-")]
    if row.arch == "vgg-like":
        return  # with its bits, in test_sizes.py
    if row.arch == "lenet-5":
        first, second, flat, units = live
        weights = 25 * first + 25 * first * second + flat * units + 10 * units
        assert row.compression == pytest.approx(430_500 / weights, rel=0.03)  # printed: 108 for 105.7
    else:
        hidden = (300, 100) if row.arch == "lenet-300-100" else (500, 300)
        whole, left = (sum(i * o for i, o in pairwise(units)) for units in ((784, *hidden, 10), (*live, 10)))
        assert row.compression == pytest.approx(whole / left, rel=1e-3)


def test_sparse_vd_has_the_same_row_as_in_its_results() -> None:
    for network, arch in (("300-100", "lenet-300-100"), ("lenet-5", "lenet-5")):
        row, paper = ROWS[f"{network} sparse-vd"], PUBLISHED[arch]
        assert (row.error, row.compression) == (paper.error, paper.compression)


def test_without_rows_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert "| 300-100 surgery | 1.99 | 56x | non-zeros | 98.2-98.2-94.5 |" in "\n".join(lines)


def test_a_quick_run_leaves_a_table_and_a_picture_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "--rows", *ROW_NAMES[:1], "--seeds", "0", "1", *WORDS, "--folder", str(tmp_path)]
    assert cli.main(words) == 0
    first = capsys.readouterr().out
    kept = (tmp_path / "300-100-dense-quick" / "seed-0" / "metrics.jsonl").read_bytes()
    words[2:3] = ROW_NAMES
    assert cli.main(words) == 0
    second = capsys.readouterr().out
    assert (tmp_path / "300-100-dense-quick" / "seed-0" / "metrics.jsonl").read_bytes() == kept
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in second.splitlines() if line[:1] == "|"
    ]
    assert [row[0] for row in rows] == [ROW_NAMES[0], "", ROW_NAMES[1], ""]
    assert {len(row) for row in rows} == {len(head)}
    paper, ours, _, pruned = (dict(zip(head[1:], row[1:], strict=True)) for row in rows)
    assert (paper["error %"], paper["non-zeros"], paper["sub-matrices"]) == ("1.64", "1x", "")
    assert ours[""] == "ours, 2 seeds" and "±" in ours["error %"] and ours["few bits"] == ours["bits per layer"] == ""
    assert pruned["non-zeros"] == "12.0 ± 0.0x" and ours["live units"].endswith("-300-100")
    assert ours["sub-matrices"] == ours["multiplications"] and " | ".join(rows[1][1:]) in first
    assert "not on MNIST" in second
    table = (tmp_path / "reproduce.md").read_text()
    assert table.splitlines() == second.splitlines()[: len(table.splitlines())]
    assert (tmp_path / "reproduce.png").read_bytes().startswith(b"\x89PNG")


def test_a_baseline_without_a_published_row_stands_beside_the_others(tmp_path: Path) -> None:
    done = module.reproduce(
        ["300-100 gradual-magnitude", "300-100 dense"], quick=True, folder=tmp_path, epochs=3, progress=False
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in str(done).splitlines() if line[:1] == "|"][2:]
    assert [row[:2] for row in rows] == [
        ["300-100 dense", "published"], ["", "ours"], ["300-100 gradual-magnitude", "not published"], ["", "ours"]
    ]  # fmt: skip
    assert rows[2][2:] == [""] * (len(rows[0]) - 2) and rows[3][3] == "68.0x"
    assert (tmp_path / "reproduce.png").read_bytes().startswith(b"\x89PNG")


def test_rows_that_cannot_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "other", replace(ROWS["lenet-5 dense"], name="other", method="not here"))
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['magic'\], expected some of \['300-100 dense'"):
        module.reproduce(["magic"], folder=tmp_path)
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['lenet-5 dense'\], which cannot run on the digits"):
        module.reproduce(["lenet-5 dense"], quick=True, folder=tmp_path)
    with pytest.raises(svd.SvdValueError, match=r"rows: got \['other'\], which cannot run; expected"):
        module.reproduce(["other"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_joins_ours_and_theirs() -> None:
    from svd_numpy.plots.published import Place, beside_published

    places = {"a": Place("One", "x", "weights"), "b": Place("One", "y", "units"), "c": Place("Two", "x", "weights")}
    ours = {"a": [(0.02, 10.0), (0.04, 14.0)], "b": [(0.01, 1.0)]}
    left, right = beside_published(places, ours, {"a": (0.02, 20.0), "c": (0.01, 5.0)}).axes
    assert (left.get_title("left"), right.get_title("left")) == ("One", "Two")
    for ax, point in ((left, [2.0, 20.0]), (right, [1.0, 5.0])):
        hollow = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
        np.testing.assert_array_equal(hollow[0].get_xydata(), [point])
    bars: Any = left.containers[0]
    np.testing.assert_array_equal(bars.lines[0].get_xydata(), [[3.0, 12.0]])
    (low, _), (high, _) = bars.lines[2][0].get_segments()[0]
    assert (high - low) / 2 == pytest.approx(np.std([2, 4], ddof=1))
    joined = [np.asarray(line.get_xydata()).tolist() for line in left.lines if line.get_linestyle() == "-"]
    assert [[3.0, 12.0], [2.0, 20.0]] in joined


def test_bits_are_those_of_the_posterior_before_the_fine_tuning() -> None:
    """Fine-tuning removes the noise; what was kept is what `posterior_bits` says of the network without it."""
    options: dict[str, Any] = {
        "dataset": "digits", "recipe": "small", "method": "bc-gnj", "backend": "numpy", "progress": False,
    }  # fmt: skip
    tuned = svd.train_mnist(epochs=6, **options)
    plain = svd.train_mnist(epochs=6, changes={"finetune_epochs": 0}, **options)
    assert tuned.history[-1]["stage"] == "finetune" and plain.history[-1]["stage"] == "variational"
    assert tuned.bits == svd.posterior_bits(plain.model, tuned.recipe.config.finetune_threshold)
    row = ROWS["300-100 bc-gnj"]
    counts = count(tuned, row)
    report = svd.sizes(tuned.model, bits=tuned.bits)
    assert counts.bits == tuple(layer.bits for layer in report.layers)
    assert counts.few_bits == report["few bits, live sub-matrices"].ratio > counts.blocks
    assert counts.compression(row) == counts.blocks == svd.sizes(tuned.model)["few bits, live sub-matrices"].ratio
    assert counts.live == tuple(layer.live[0] for layer in report.layers)
    of_weights = count(tuned, ROWS["300-100 sparse-vd"])
    assert of_weights.few_bits == report["few bits, an index as wide"].ratio


def test_rows_that_take_too_long_say_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"folder": tmp_path, "progress": False}
    monkeypatch.setattr(module, "estimate", lambda row, *_: Cost(1.9, 150_000))
    found = module.reproduce(["vgg-like bc-gnj"], **options)
    assert "not run: about 79 hours for each seed here, 1900 ms a step, and hours=12" in str(found)
    assert "| 8.60 |  | 14x | 56x | 10-10-10-10-8-8-8-5-5-5-5-5-6-7-11 |" in str(found)
    assert (tmp_path / "reproduce.md").read_text() == f"{found}\n"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    with pytest.raises(svd.SvdValueError, match="hours: got -1"):
        module.reproduce(["vgg-like bc-gnj"], hours=-1, **options)


@pytest.mark.parametrize("name", ["300-100 surgery", "lenet-5 sbp"])
def test_a_cost_is_steps_times_their_time(name: str) -> None:
    cost = estimate(ROWS[name], 2, "numpy")
    assert cost.steps == 600 * {"300-100 surgery": 2, "lenet-5 sbp": 3}[name]  # an epoch of fine-tuning, too
    assert 0 < cost.hours == cost.step * cost.steps / 3600


def test_several_at_once_give_the_bits_of_one_after_the_other(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": (0, 1), "quick": True, "epochs": 2, "backend": "numpy", "progress": False}
    for name, jobs in (("one", 1), ("two", 2)):
        module.reproduce(ROW_NAMES[:1], folder=tmp_path / name, jobs=jobs, **options)
    for seed in (0, 1):
        one, two = (tmp_path / name / "300-100-dense-quick" / f"seed-{seed}" for name in ("one", "two"))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (tmp_path / "one" / "reproduce.png").stat().st_size > 0


def test_a_run_that_fails_elsewhere_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"quick": True, "epochs": 2, "backend": "numpy", "progress": False}
    with pytest.raises(svd.SvdError, match=r"1 of 1 runs failed: .*seed-0.*epochs: got -1"):
        module.reproduce(ROW_NAMES[:1], folder=tmp_path, jobs=2, **{**options, "epochs": -1})


def test_a_table_to_keep_keeps_the_rows_that_stand_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/papers.py: rows of another day stay, and a part has a table of its own."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    script = importlib.import_module("papers")
    monkeypatch.setattr(script, "OUT", tmp_path)

    def done(rows: list[str], **_: Any) -> module.Reproduction:
        counts = [Counts(0.0123, 20.0, 10.0, (4, 5, 6), 30.0, 10.0, (200, 90, 20), 60.0)]
        return module.Reproduction({}, dict.fromkeys(rows, counts), quick=False)

    monkeypatch.setattr(script, "reproduce", done)
    for words in (["--only", "l0"], ["--only", "bc-gnj"], ["--only", "bc-ghs", "--part", "horseshoe"]):
        monkeypatch.setattr("sys.argv", ["papers.py", "300-100", *words])
        script.main()
    page = (tmp_path / "papers-300-100.md").read_text()
    assert page.count("| ours | 1.23 |") == page.count("* Command:") == 2
    assert page.index("300-100 bc-gnj") < page.index("300-100 l0") and "300-100 bc-ghs" not in page
    other = (tmp_path / "papers-300-100-horseshoe.md").read_text()
    assert "300-100 bc-ghs" in other and "![error against compression](papers-300-100-horseshoe.png)" in other
    assert (tmp_path / "papers-300-100-horseshoe.png").is_file()
