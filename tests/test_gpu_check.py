"""`benchmarks/gpu_check.py`: no section loses what another found, and what is wanted is compared with what is found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_check

    return gpu_check


def found(**changes: Any) -> dict[str, Any]:
    """Return what a device might give that is as fast as it should be."""
    micros = {"svd_numpy, recorded": 80.0, "PyTorch, eager": 800.0, "PyTorch, graph": 120.0}
    rows = {"forward, small tile": {"tflops": 20.0}, "forward, large tile": {"tflops": 40.0}}
    return {
        "Device": {"peak_tflops": 66.9},
        "Every operation": {"rows": [{"ok": True}] * 12, "done": True},
        "Recorded steps": {"same_bits": True, "recorded": True},
        "LeNet-300-100": {"micros": micros},
        "200 epochs": {"seconds": 12.0, "data": "mnist", "epochs": 200},
        "Sixteen runs": {"ratio": 2.5, "same_bits": True},
        "Products": {"rows": rows},
    } | changes


def test_what_is_wanted_is_compared(check: Any) -> None:
    rows = check.targets(found())
    assert [row[2] for row in rows] == ["met"] * len(rows) == ["met"] * 9
    assert [row[1] for row in rows] == [
        "12 of 12 cases", "yes", "80 µs", "10.0 times", "1.50 times", "12.0 s", "60%", "2.50 times", "yes",
    ]  # fmt: skip
    slow = {"svd_numpy, recorded": 200.0, "PyTorch, eager": "Traceback ...", "PyTorch, graph": 150.0}
    wrong = found(**{
        "Every operation": {"rows": [{"ok": True}, {"ok": False}], "done": True},
        "Recorded steps": {"same_bits": True, "recorded": False},
        "LeNet-300-100": {"micros": slow},
        "200 epochs": {"seconds": 1.0, "data": "digits", "epochs": 200},
        "Sixteen runs": {"ratio": 3.01, "same_bits": False},
        "Device": {},
    })  # fmt: skip
    bad = "**missed**"
    assert [row[2] for row in check.targets(wrong)] == [bad, bad, bad, "", bad, "", "", bad, bad]
    assert {row[1:] for row in check.targets({})} == {("not measured", "")}
    cut_short = found(**{"Every operation": {"rows": [{"ok": True}], "end": "it was cut short"}})
    assert check.targets(cut_short)[0][1] == "not measured"


def test_files_are_written_after_each_section(check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check.Report(tmp_path / "sub" / "gpu", minutes=1)
    seen = []

    def run(name: str, seconds: float) -> dict[str, Any]:
        seen.append((name, seconds))
        return {"lines": [f"lines of {name}"], "raw": found()[name]}

    report.section("Device", run)
    text = (tmp_path / "sub" / "gpu.md").read_text()
    assert "lines of Device" in text and "not measured" in text and "| wanted | found | |" in text
    report.section("Products", run)
    assert "| 60% | met |" in (tmp_path / "sub" / "gpu.md").read_text()
    report.ends -= 58
    report.section("Ladder", run)
    assert json.loads((tmp_path / "sub" / "gpu.json").read_text())["Device"] == {"peak_tflops": 66.9}
    assert [name for name, _ in seen] == ["Device", "Products"] and all(seconds <= 60 for _, seconds in seen)
    assert "Skipped: the time was up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("pass", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with status -11"),
        ("import time; time.sleep(60)", "cut short after 4 s"),
    ],
)
def test_what_a_section_found_survives_its_end(check: Any, tmp_path: Path, end: str, words: str) -> None:
    script = tmp_path / "section.py"
    script.write_text(
        "import json, sys\n"
        "open(sys.argv[2], 'w').write(json.dumps({'lines': ['one line'], 'raw': {'name': sys.argv[1]}}))\n" + end
    )
    got = check.run_apart("Device", 4, script=str(script))
    assert got["lines"][0] == "one line" and got["raw"]["name"] == "Device"
    assert words in " ".join(got["lines"][1:]) and ("end" in got["raw"]) == bool(words)


def test_every_section_has_its_limit(check: Any) -> None:
    import gpu_sections

    assert list(gpu_sections.SECTIONS) == list(check.LIMITS)


def test_a_nan_anywhere_is_a_distance_that_is_not_small(check: Any) -> None:
    import gpu_sections

    exact = [np.ones((2, 3)), np.ones(4)]
    assert gpu_sections.distance(exact, exact) == 0
    assert gpu_sections.distance([exact[0], 1.5 * exact[1]], exact) == pytest.approx(0.5)
    for place in (0, 1):
        found = [array.copy() for array in exact]
        found[place][0] = np.nan
        assert not gpu_sections.distance(found, exact) <= gpu_sections.TOLERANCE


def test_a_section_that_fails_keeps_what_it_had(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_sections

    def half(section: Any) -> None:
        section.line("first half")
        raise RuntimeError("no device any more")

    monkeypatch.setitem(gpu_sections.SECTIONS, "Ladder", half)
    monkeypatch.setattr(sys, "argv", ["gpu_sections.py", "Ladder", str(tmp_path / "found.json")])
    gpu_sections.main()
    got = json.loads((tmp_path / "found.json").read_text())
    assert got["lines"][0] == "first half" and "no device any more" in got["lines"][-1] and "failed" in got["raw"]
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is not installed")
def test_a_trial_in_the_simulator(check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    for name, words in (
        ("Ladder", "| register |"),
        ("Recorded steps", "the same bits as step by step"),
        ("Sixteen runs", "the same bits as each alone"),
        ("Device", "none"),
    ):
        got = check.run_apart(name, 300, trial=True)
        assert words in "\n".join(got["lines"]) and not {"end", "failed"} & set(got["raw"])
