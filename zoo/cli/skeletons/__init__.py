"""Plugins to begin with, one of a kind; ``zoo new`` writes them."""
