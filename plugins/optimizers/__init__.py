"""Optimizers over named groups of parameters."""
