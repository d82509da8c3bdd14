"""`python -m tfpipe` is the `tfpipe` command."""

from tfpipe.cli.main import entry

if __name__ == "__main__":
    entry()
