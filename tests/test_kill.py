"""A small trial of `campaigns/kill.py`: nothing that writes files loses or spoils them when killed or out of space."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")

CAMPAIGNS = ROOT / "campaigns"
SINGLE = ["model", "svdz", "frames.npz", "log_alpha.npz", "CSR", "checkpoint", "data import"]
KILLED = "train_mnist, killed at random"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CAMPAIGNS / "kill.py"), "--out", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_a_trial_finds_no_fault_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = run(tmp_path, "--every", "5", "--writers", *SINGLE, "result")
    assert first.returncode == 0, first.stdout + first.stderr
    again = run(tmp_path, "--every", "19", "--kills", "1", "--writers", "model", "fit", KILLED)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = json.loads((tmp_path / "kill.json").read_text())["rows"]
    for name in (*SINGLE, "result"):
        verdicts = rows[f"{name}, every 5th call"]["verdicts"]
        assert verdicts["old"] and verdicts["new"]
    assert rows["result, every 5th call"]["verdicts"]["unfinished"]
    assert list(rows["fit, every 19th call"]["verdicts"]) == list(rows[KILLED]["verdicts"]) == ["same bits"]
    assert "Python 3" in (tmp_path / "kill.md").read_text()


def test_it_sees_what_is_half_written_and_what_is_left(tmp_path: Path) -> None:
    """A writer that is not atomic, one whose errors say nothing, and one that forgets its temporary file."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from kill import Judge\n"
        "from writers import Writer, files\n"
        "def plain(folder, which):\n"
        "    (folder / 'file').write_bytes(bytes([which]) * 100)\n"
        "def silent(folder, which):\n"
        "    try:\n"
        "        plain(folder, which)\n"
        "    except OSError:\n"
        "        pass\n"
        "def untidy(folder, which):\n"
        "    name = folder / f'.tmp-{os.getpid()}'\n"
        "    name.write_bytes(bytes([which]) * 100)\n"
        "    os.replace(name, folder / 'file')\n"
        "for write in plain, silent, untidy:\n"
        "    judge = Judge(Writer(write, files), Path(sys.argv[1]).resolve() / 'folder', 1)\n"
        "    print(sorted({judge(number)[0] for number in range(len(judge.cases))}))\n"
    )
    path = f"{CAMPAIGNS}:{ROOT}"
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(PYTHONPATH=path))
    plain, silent, untidy = done.stdout.splitlines()
    assert "torn" in plain and "torn" in silent and "stuck" in untidy and "unclear" in untidy, done.stdout


def test_every_module_that_writes_files_is_tried() -> None:
    """Whoever calls one of these functions belongs to a writer of the campaign."""
    calls = re.compile(r"(?<!def )\b(write_atomic|replacing|write_new|os\.replace|shutil\.copyfileobj)\(|, \"ab\"")
    package = ROOT / "svd_numpy"
    writing = {str(path.relative_to(package)) for path in package.rglob("*.py") if calls.search(path.read_text())}
    named = set(re.findall(r'"([a-z_]+(?:/[a-z_]+)+\.py)"', (CAMPAIGNS / "writers.py").read_text()))
    assert writing - {"files/atomic.py"} == named - {"files/lock.py", "train/loop.py"}
