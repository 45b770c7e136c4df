# Cells that every tutorial begins with; make_notebooks.py puts them where a source has a cell tagged "setup".

# %% jupyter={"source_hidden": true} tags=["setup"]
# On Binder and Colab this installs the package; anywhere else it does nothing.
import os
import pathlib
import subprocess
import sys

if "google.colab" in sys.modules or "BINDER_SERVICE_HOST" in os.environ:
    package = ".." if pathlib.Path("..", "pyproject.toml").exists() else "svd-numpy"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% jupyter={"source_hidden": true} tags=["tools"]
# Blanks: `check` judges your lines, `hint("name")` helps a step at a time. Until they are right, the notebook goes on
# with the answer in solutions/THIS.py, so that everything below works.
import os
import pathlib

HINTS = {}


def use_answer(name):
    """Take the answer of a blank or a puzzle from solutions/, if that folder is there."""
    path = pathlib.Path("solutions", "THIS.py")
    cells = path.read_text(encoding="utf-8").split("\n# %% ")[1:] if path.exists() else []
    for cell in cells:
        title, _, code = cell.partition("\n")
        if title == name:
            exec(code, globals())


def check(name, test, *hints):
    """Judge a blank. Where it is not right yet, go on with the answer."""
    try:
        verdict = "🟩 right" if test() else "🟥 not right yet"
    except Exception as error:
        empty = "ellipsis" in str(error)  # that is what Python calls `...`
        verdict = "⬜ to do" if empty else f"🟥 {type(error).__name__}: {error}"
    HINTS.setdefault(name, [*hints])
    print(f"{name}: {verdict}")
    if verdict != "🟩 right":
        print(f'For a hint, run hint("{name}"). Until then the notebook goes on with the answer in solutions/.')
        use_answer(name)


def hint(name):
    """One more hint at each call."""
    print(HINTS[name].pop(0) if HINTS.get(name) else f"No more hints for {name}: look into solutions/THIS.py.")


def slide(**sliders):
    """Sliders for the arguments of a picture. Where this page was made, it drew the picture that they begin with."""
    if "SVD_NUMPY_NOTEBOOKS" not in os.environ:
        from ipywidgets import interact

        return interact(**sliders)

    def draw(function):
        function(**{name: getattr(slider, "value", slider) for name, slider in sliders.items()})
        return function

    return draw
