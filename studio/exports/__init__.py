"""Comparisons and convergence measurements as files to take away."""
