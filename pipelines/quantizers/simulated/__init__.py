"""Simulated quantization: weights and activations are rounded as a method says, and computed in floating point.

What it shows is what a method does to the pictures. It makes no claim of speed or memory.
"""
