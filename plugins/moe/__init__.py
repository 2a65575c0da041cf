"""Mixture of experts: a router sends each token through a few of many feed-forward layers."""
