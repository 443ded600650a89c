"""Does the studio keep its memory, its results, and people apart? `python -m pipelines.benchmark reliability`."""
