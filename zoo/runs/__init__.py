"""A run as a folder: its name, its budget, its row."""
