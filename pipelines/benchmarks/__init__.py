"""Measurements of the numerical core, each behind `python -m pipelines.benchmark NAME`."""
