"""Editing a picture: the request and its runs."""
