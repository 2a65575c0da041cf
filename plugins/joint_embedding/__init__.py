"""Predicting embeddings of what is hidden, and the rival that predicts the inputs themselves."""
