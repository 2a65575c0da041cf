"""Weights of which each process holds a part (FSDP), for steps that need whole matrices."""

from torch import Tensor

from zoo.nn import is_sharded


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered from all processes; any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def spread_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor, spread over processes as the parameter is."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
