"""Comparing settings on one noise: the request, its axes and the labels of its cells."""
