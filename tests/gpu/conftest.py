"""The small dataset and model that the tests of the training have."""

from tests.training.conftest import checkpoint, dataset

__all__ = ["checkpoint", "dataset"]
