"""The dataset and the model of the training tests."""

from tests.training.conftest import checkpoint, dataset

__all__ = ["checkpoint", "dataset"]
