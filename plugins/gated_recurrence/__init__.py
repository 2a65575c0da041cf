"""Recurrences of single channels whose gates do not see the state, so that a parallel scan computes them."""
