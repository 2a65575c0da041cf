"""Softmax attention: over the sequence itself, over windows or blocks of it, or over another sequence."""
