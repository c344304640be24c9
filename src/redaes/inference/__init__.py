"""Inference: what a trained model is used for, one image or a million at a time."""
