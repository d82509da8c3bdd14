"""`python -m tfpipe` is the `tfpipe` command."""

import sys

from tfpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
