"""Weights of one bit or of three values, with activations of a few bits, and what runs them once trained."""
