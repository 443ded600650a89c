"""Does the studio keep its memory, its results and its doors shut? `python -m pipelines.benchmark reliability`."""
