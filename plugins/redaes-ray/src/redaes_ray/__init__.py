"""The data engine, the scorer and the evaluation on a Ray cluster."""
