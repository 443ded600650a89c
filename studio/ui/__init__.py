"""Widgets and page parts that several tabs share."""
