"""Weights of which each process holds a part (FSDP), for steps that need whole matrices."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered from all processes; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor, spread over processes as the parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
