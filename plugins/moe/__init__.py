"""Mixture of experts: each token goes through a few of many feed-forwards, chosen by a router."""
