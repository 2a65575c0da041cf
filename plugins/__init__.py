"""The built-in plugins. Each is written as a third party would write it, one idea per file."""
