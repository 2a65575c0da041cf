"""Positions: none, an added vector, a rotation, or a bias on the scores; on a line or on a grid."""
