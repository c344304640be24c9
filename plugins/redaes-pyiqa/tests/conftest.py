"""Makes a torchvision importable whose compiled half does not fit the installed torch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.torchvision_operators import define_missing

define_missing()
