"""The loopback server of the vendors' protocols lies with the benchmarks of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
