"""The page: its top and one folder for each tab."""
