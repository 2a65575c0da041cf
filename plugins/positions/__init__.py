"""Where a token is: nothing, a vector added, a rotation, or a bias on the scores; on a line or on a grid."""
