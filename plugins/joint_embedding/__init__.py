"""Predicting embeddings of what is hidden, and its rival, which predicts the inputs themselves."""
