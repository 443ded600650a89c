"""What `python -m pipelines.benchmark` measures of the running studio."""
