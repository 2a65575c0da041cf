"""Softmax attention: over the sequence itself, in windows or blocks of it, or over another sequence."""
