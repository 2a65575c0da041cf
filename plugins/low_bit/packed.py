"""A low-bit linear after training: packed codes, a scale, and the fastest kernel that this machine has for them."""

import torch
from torch import Tensor, nn

from zoo.nn import compute_dtype

from .kernels import FEW, Problem, Way, choose, leanest, prepare
from .packing import pack, unpack


class PackedLinear(nn.Module):
    """``y = (q @ codes^T) * (scale_x * scale) + bias``, with q the integer codes of x and a ``scale_x`` for each token.

    The product of integers is exact, so in float32 every kernel gives the same bits (half precision rounds as always).
    The result is that of the trained layer up to the order of rounding. Its state is ``codes`` (bytes), ``scale``,
    ``shape`` (N and K without padding) and ``bias``. Codes are unpacked once, at the first call on a device, into what
    the chosen kernel reads.
    """

    def __init__(
        self,
        codes_NK: Tensor,
        scale: Tensor,
        values: int,
        layout: str,
        activation_bits: int | None,
        bias: Tensor | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.values, self.layout, self.activation_bits, self.norm = values, layout, activation_bits, norm
        self.out_features, self.in_features = codes_NK.shape
        self.register_buffer("codes", pack(codes_NK, values, layout))
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shape", torch.tensor(codes_NK.shape))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._ways: dict[tuple[str, torch.dtype, bool], Way] = {}

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        self._ways = {}  # they were made from the old codes
        shape = state_dict.get(f"{prefix}shape")
        if shape is not None and shape.tolist() != self.shape.tolist():  # padding may hide it in the codes
            errors.append(f"{prefix}shape is {shape.tolist()}, this layer's {self.shape.tolist()}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _apply(self, function, recurse: bool = True):
        self._ways = {}  # they are for the old device
        return super()._apply(function, recurse)

    def unpacked(self) -> Tensor:
        """The int8 codes (N, K)."""
        return unpack(self.codes, self.in_features, self.values, self.layout)

    def implementations(self, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
        """Which kernel multiplies there, for one token and for many, and how long the whole layer takes."""
        implementations = {}
        for few, name in ((True, "one token"), (False, "64 tokens")):
            choice = choose(self._problem(device.type, dtype, few))
            bits = "" if self.activation_bits is None else f" by {self.activation_bits} bits"
            key = f"packed {self.in_features} to {self.out_features}, {self.values} values{bits}, {name}"
            implementations[key] = f"{choice.kernel}, {choice.ratio:.2f} of the time of a bfloat16 linear"
        return implementations

    def held_bytes(self) -> int:
        """The bytes this layer holds in memory: its state, and what kernels have made of it so far."""
        kept = {id(tensor): tensor for way in self._ways.values() for tensor in way.kept}
        return sum(t.numel() * t.element_size() for t in [*self.state_dict().values(), *kept.values()])

    @torch.no_grad()
    def least_bytes(self, device: torch.device, dtype: torch.dtype) -> int:
        """The bytes this layer would hold with the kernel that holds least, of those that run there on one token."""
        problem = self._problem(device.type, dtype, True)
        kept = prepare(leanest(problem), self.unpacked(), problem).kept
        return sum(t.numel() * t.element_size() for t in [*self.state_dict().values(), *kept])

    def _problem(self, device: str, dtype: torch.dtype, few: bool) -> Problem:
        return Problem(device, dtype, self.activation_bits, self.out_features, self.in_features, few)

    def _way(self, device: str, dtype: torch.dtype, few: bool) -> Way:
        """The chosen kernel with what it keeps, shared between choices of the same kernel."""
        problem = self._problem(device, dtype, few)
        name = choose(problem).kernel
        for (other, kept_dtype, _), way in self._ways.items():
            if (other, way.kernel) == (device, name) and (kept_dtype == dtype or name == "int8"):
                self._ways[device, dtype, few] = Way(name, problem, way.kept)
                return self._ways[device, dtype, few]
        self._ways[device, dtype, few] = prepare(name, self.unpacked(), problem)
        return self._ways[device, dtype, few]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        device, dtype = x.device.type, compute_dtype(x)
        if not torch.is_autocast_enabled(device):  # entering a context costs as much as a small product
            return self._compute(x, dtype)
        with torch.autocast(device, enabled=False):
            return self._compute(x, dtype)

    def _compute(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if self.norm is not None:
            x = self.norm(x.to(torch.promote_types(x.dtype, torch.float32)))
        x_MK = x.reshape(-1, self.in_features)
        key = (x.device.type, dtype, x_MK.shape[0] <= FEW)
        way = self._ways.get(key) or self._way(*key)
        return way(x_MK, self.scale, self.bias).to(dtype).view(*x.shape[:-1], self.out_features)
