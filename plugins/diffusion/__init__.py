"""Diffusion of tokens: predict hidden ones at every share of hidden ones, in a whole sequence or in blocks of it."""
