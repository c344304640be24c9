"""Evaluation: correlations with intervals, tables and reports."""
