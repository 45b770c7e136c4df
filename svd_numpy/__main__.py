"""`python -m svd_numpy`: the command line."""

from __future__ import annotations

import sys

from svd_numpy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
