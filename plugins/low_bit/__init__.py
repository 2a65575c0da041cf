"""Linear layers with weights of one bit or three values and activations of a few bits, and kernels that run them."""
