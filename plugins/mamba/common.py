"""What the generations with heads share."""

import math

from zoo.nn import at_least_one


def heads_of(inner: int, head_dim: int | None, groups: int) -> int:
    """The number of heads that share ``inner`` channels. By default a head has gcd(inner, 64) channels.

    Raises:
        ValueError: the head's channels do not divide ``inner``, or ``groups`` does not divide the heads.
    """
    head_dim = math.gcd(inner, 64) if head_dim is None else head_dim
    at_least_one(head_dim=head_dim, groups=groups)
    if inner % head_dim:
        raise ValueError(f"mixer.head_dim={head_dim} does not divide expand * dim = {inner}; change one of them")
    heads = inner // head_dim
    if heads % groups:
        raise ValueError(f"mixer.groups={groups} does not divide the {heads} heads of {head_dim} channels; change one")
    return heads
