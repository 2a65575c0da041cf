"""Primitives of torch alone that several plugins share."""

from zoo.nn.bidirectional import Bidirectional as Bidirectional
from zoo.nn.convolution import ShortConvolution as ShortConvolution
from zoo.nn.counting import counting as counting
from zoo.nn.counting import is_counting as is_counting
from zoo.nn.counting import is_recomputing as is_recomputing
from zoo.nn.init import rescale_ as rescale_
from zoo.nn.init import scale_residual_ as scale_residual_
from zoo.nn.precision import compute_dtype as compute_dtype
from zoo.nn.projection import project as project
from zoo.nn.state import state_bytes as state_bytes
from zoo.nn.state import tensors_of as tensors_of
from zoo.nn.straight_through import straight_through as straight_through

__all__ = [
    "Bidirectional",
    "ShortConvolution",
    "compute_dtype",
    "counting",
    "is_counting",
    "is_recomputing",
    "project",
    "rescale_",
    "scale_residual_",
    "state_bytes",
    "straight_through",
    "tensors_of",
]
