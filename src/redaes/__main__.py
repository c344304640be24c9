"""`python -m redaes`: the command line without the installed script."""

import sys

from redaes.cli import process

if __name__ == "__main__":
    sys.exit(process())
