"""Convolutions as long as the sequence: diagonal state spaces, and Hyena's implicit filters."""
