"""``python -m molmoact2_edge`` is the command ``molmoact2-edge``."""

import sys

from molmoact2_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
