"""Stacks of layers on a residual stream."""
