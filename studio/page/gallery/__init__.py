"""The Gallery tab."""
