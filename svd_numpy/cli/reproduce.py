"""`svd-numpy reproduce`: the papers' rows, trained again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reproduce:
    """Train the rows of the papers' tables and print their figures beside ours; without --rows, list the rows.

    Runs are kept, so that the same command goes on where it was stopped.

    Attributes
    ----------
    rows : names
        Rows to train, as they are listed, or "all" for all that can run here.
    seeds : whole numbers
        A run for each.
    quick : bool
        Train on the small digits instead of MNIST: this compares methods, but not with the papers.
    folder : path
        Where runs, table (reproduce.md) and picture (reproduce.png) go.
    epochs : int, optional
        Epochs of each run; None takes the recipe's.
    hours : float
        Leave out rows of which a run would take longer here, and say how long; steps are measured first.
    backend : str
        "cuda" (a GPU), "numba" (fast), "numpy" (plain), or "auto": SVD_NUMPY_BACKEND if set, else the fastest usable.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    jobs : int
        Runs at the same time; they share the processor cores.
    scheduler : str, optional
        Address of a Dask scheduler that does the runs, such as tcp://host:8786, or "local" for a cluster on this
        machine; None takes processes of this machine.
    progress : bool
        Show a progress bar (in a terminal) or a line per epoch (in a log).
    """

    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    quick: bool = False
    folder: Path = Path("reproduced")
    epochs: int | None = None
    hours: float = 12.0
    backend: str = "auto"
    data_dir: Path | None = None
    jobs: int = 1
    scheduler: str | None = None
    progress: bool = True

    def run(self) -> int:
        """List, or train and print."""
        from svd_numpy.experiments.reproduce import reproduce, rows_table

        if not self.rows:
            print(rows_table())
            return 0
        found = reproduce(
            () if self.rows == ("all",) else self.rows, seeds=self.seeds, quick=self.quick, folder=self.folder,
            epochs=self.epochs, hours=self.hours, backend=self.backend, data_dir=self.data_dir, jobs=self.jobs,
            scheduler=self.scheduler, progress=self.progress,
        )  # fmt: skip
        print(found)
        print(f"written: {self.folder / 'reproduce.md'}, {self.folder / 'reproduce.png'}")
        return 0
