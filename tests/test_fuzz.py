"""A small trial of `campaigns/fuzz.py`: no file, damaged or hostile, does anything but load or be refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from processes import environment

SCRIPT = Path(__file__).resolve().parents[1] / "campaigns" / "fuzz.py"
SIGNED = ["model", "compact", "svdz", "net.npz", "checkpoint"]
FORMATS = [*SIGNED, "frames.npz", "log_alpha.npz", "metrics.jsonl", "result.json", "PyTorch", "IDX"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_a_trial_finds_no_fault_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = run(tmp_path, "--cases", "20", "--formats", *FORMATS)
    assert first.returncode == 0, first.stdout + first.stderr
    content = json.loads((tmp_path / "fuzz.json").read_text())
    results = content["rows"]
    assert set(results) == {f"{name}, {kind}" for name in FORMATS for kind in ("bytes", "hostile")}
    for name, entry in results.items():
        assert entry["cases"] == sum(entry["verdicts"].values()) == 20 and not entry["faults"]
        if name.split(",")[0] in SIGNED:
            assert entry["verdicts"]["refused"] >= (20 if "bytes" in name else 10)
    results["svdz, bytes"]["verdicts"]["marked"] = 1
    (tmp_path / "fuzz.json").write_text(json.dumps(content))
    again = run(tmp_path, "--cases", "25", "--formats", "svdz")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((tmp_path / "fuzz.json").read_text())["rows"]["svdz, bytes"]["verdicts"] == {
        "marked": 1,
        "refused": 25,
    }
    report = (tmp_path / "fuzz.md").read_text()
    for words in ("| svdz, bytes | 25 |", "| **all** | 450 |", "python campaigns/fuzz.py --out"):
        assert words in report


def test_cases_repeat(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        run(folder, "--cases", "10", "--formats", "model")
        found.append(json.loads((folder / "fuzz.json").read_text())["rows"])
    assert found[0] == found[1]


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    assert "invalid choice" in run(tmp_path, "--formats", "pickle").stderr
