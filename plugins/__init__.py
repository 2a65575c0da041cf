"""The built-in plugins; each is written as a third party would write it, one idea a file."""
