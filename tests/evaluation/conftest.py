"""What the tests of evaluation and reports share."""

from pathlib import Path

import pytest
from tests.evaluation.a_finished_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))
