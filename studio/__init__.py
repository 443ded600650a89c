"""What a person or a program touches: the page, the jobs behind it, the stored results, the command line."""

__version__ = "0.1.0"
