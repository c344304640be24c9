"""Data: datasets on disk, and the batches that training takes from them."""
