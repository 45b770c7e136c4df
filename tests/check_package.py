"""Build wheel and sdist and try them as a stranger would: `make check-package`, with any Python (PYTHON=python3.13).

    python tests/check_package.py

Nothing of this checkout is on the path of what is tried: both environments are fresh, and so is the working directory.
One holds the wheel and what it asks for, the other NumPy and the reader of exported networks alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import warnings
warnings.simplefilter("error")
import svd_numpy as svd
assert "site-packages" in svd.__file__, svd.__file__
result = svd.train_mnist(dataset="digits", recipe="small", epochs=20, run_dir="run", progress=False)
assert result.test_error < 0.1 and result.compression > 2, result
small = svd.compress(result.model)
small.export_numpy("net.npz")
svd.export_c(small, "net", result.data.x_train[:100])
svd.export_html(result.model, "page.html", result.data.x_test, result.data.y_test)
import numpy as np
np.save("images.npy", result.data.x_test[:20])
np.save("classes.npy", small.predict(result.data.x_test[:20]).argmax(axis=1))
print(f"trained by {svd.get_backend().name}: error {100 * result.test_error:.1f} %, {result.compression:.0f}x smaller")
"""
READ = """
import sys
import numpy as np
import net_reader
assert not {"svd_numpy", "numba", "scipy"} & {*sys.modules}
logits = net_reader.load("net.npz")(np.load("images.npy"))
assert (logits.argmax(axis=1) == np.load("classes.npy")).all()
print(f"read with NumPy {np.__version__} alone: the same classes")
"""


def call(*words: Any, folder: Path | None = None) -> str:
    """Run a command that must succeed, in an environment that knows nothing of this checkout."""
    told = ("PYTHON", "SVD_NUMPY", "VIRTUAL_ENV", "NUMBA_CACHE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def environment_with(folder: Path, *packages: Any) -> Path:
    """Make a fresh environment, and return the folder of its programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    call(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return programs


def tracked() -> set[str]:
    """The files of the repository."""
    return set(call("git", "ls-files", folder=ROOT).split("\n")) - {""}


def names_in(archive: Path) -> set[str]:
    """The files in a wheel, or in an sdist without the name of its folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist if member.isfile()}


def differences(archive: str, found: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Say what an archive has too much and too little."""
    more, less = {*found} - {*wanted}, {*wanted} - {*found}
    return [f"{archive}: {name} is too much" for name in sorted(more)] + [
        f"{archive}: {name} is missing" for name in sorted(less)
    ]


def check_files(wheel: Path, sdist: Path, files: set[str]) -> list[str]:
    """Compare what was packed with the files of the repository."""
    inside = {name for name in names_in(wheel) if ".dist-info/" not in name}
    return [
        *differences("wheel", inside, {name for name in files if name.startswith("svd_numpy/")}),
        *differences("sdist", names_in(sdist), files | {"PKG-INFO"}),
    ]


def main() -> None:
    """Build, compare, install, run."""
    print(f"Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = environment_with(folder / "tools", "build", "twine")
        call(tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT)  # the wheel is made from the sdist
        (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
        call(tools / "python", "-m", "twine", "check", "--strict", wheel, sdist)
        if wrong := check_files(wheel, sdist, tracked()):
            raise SystemExit("\n".join(wrong))
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e3:,.0f} kB" for path in (wheel, sdist))
        print(f"built from a clean list of files: {sizes}")

        user, work = environment_with(folder / "user", wheel), folder / "work"
        work.mkdir()
        call(user / "python", "-m", "pip", "check")
        call(user / "svd-numpy", "--help", folder=work)
        print(call(user / "python", "-c", TRAIN, folder=work), end="")

        bare = environment_with(folder / "bare", "numpy")
        print(call(bare / "python", "-c", READ, folder=work), end="")


if __name__ == "__main__":
    main()
