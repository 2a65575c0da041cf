"""What the generations with heads share."""

import math

from zoo.nn import at_least_one


def heads_of(inner: int, head_dim: int | None, groups: int) -> int:
    """The number of heads that share ``inner`` channels.

    By default a head has about the 64 channels of the published models: of the divisors of ``inner`` that leave a
    multiple of ``groups`` heads, the nearest to 64 in ratio, and of two that are equally near the smaller. The greatest
    common divisor would leave heads of 8 channels where ``inner`` is 104, and 13 of them.

    Raises:
        ValueError: the head's channels do not divide ``inner``, or ``groups`` does not divide the heads.
    """
    at_least_one(groups=groups)
    if head_dim is None:
        divisors = (count for count in range(1, inner + 1) if inner % count == 0 and inner // count % groups == 0)
        head_dim = min(divisors, key=lambda channels: abs(math.log(channels / 64)), default=inner)
    at_least_one(head_dim=head_dim)
    if inner % head_dim:
        raise ValueError(f"mixer.head_dim={head_dim} does not divide expand * dim = {inner}; change one of them")
    heads = inner // head_dim
    if heads % groups:
        raise ValueError(f"mixer.groups={groups} does not divide the {heads} heads of {head_dim} channels; change one")
    return heads
