"""Primitives of torch alone that several plugins share."""

from zoo.nn.bidirectional import Bidirectional as Bidirectional
from zoo.nn.bounds import at_least_one as at_least_one
from zoo.nn.bounds import at_least_zero_below_one as at_least_zero_below_one
from zoo.nn.convolution import Convolved as Convolved
from zoo.nn.convolution import ShortConvolution as ShortConvolution
from zoo.nn.counting import counting as counting
from zoo.nn.counting import is_counting as is_counting
from zoo.nn.counting import is_recomputing as is_recomputing
from zoo.nn.derivatives import derivative_of as derivative_of
from zoo.nn.derivatives import derives_further as derives_further
from zoo.nn.derivatives import may_own_derivative as may_own_derivative
from zoo.nn.dropout import make_dropout as make_dropout
from zoo.nn.init import rescale_ as rescale_
from zoo.nn.init import scale_residual_ as scale_residual_
from zoo.nn.init import time_step_bias as time_step_bias
from zoo.nn.masking import spans as spans
from zoo.nn.masking import without_padding as without_padding
from zoo.nn.passes import once_a_pass as once_a_pass
from zoo.nn.passes import one_pass as one_pass
from zoo.nn.position_ids import at_positions as at_positions
from zoo.nn.position_ids import stem_facts as stem_facts
from zoo.nn.position_ids import take as take
from zoo.nn.position_ids import token_ids as token_ids
from zoo.nn.precision import compute_dtype as compute_dtype
from zoo.nn.precision import wide as wide
from zoo.nn.precision import widened as widened
from zoo.nn.processes import gather_over_processes as gather_over_processes
from zoo.nn.processes import is_sharded as is_sharded
from zoo.nn.processes import processes as processes
from zoo.nn.processes import sum_over_processes as sum_over_processes
from zoo.nn.projection import project as project
from zoo.nn.rms_norm import RMSNorm as RMSNorm
from zoo.nn.rms_norm import rms_norm as rms_norm
from zoo.nn.sending import held as held
from zoo.nn.sending import sent as sent
from zoo.nn.state import check_state as check_state
from zoo.nn.state import no_tokens as no_tokens
from zoo.nn.state import select_rows as select_rows
from zoo.nn.state import state_bytes as state_bytes
from zoo.nn.state import tensors_of as tensors_of
from zoo.nn.straight_through import straight_through as straight_through
from zoo.nn.targets import UNASKED as UNASKED
from zoo.nn.targets import cross_entropy as cross_entropy
from zoo.nn.targets import last_real as last_real
from zoo.nn.targets import mean_error as mean_error
from zoo.nn.targets import padding as padding
from zoo.nn.targets import pooled as pooled
from zoo.nn.tying import tie_ as tie_

__all__ = [
    "UNASKED",
    "Bidirectional",
    "Convolved",
    "RMSNorm",
    "ShortConvolution",
    "at_least_one",
    "at_least_zero_below_one",
    "at_positions",
    "check_state",
    "compute_dtype",
    "counting",
    "cross_entropy",
    "derivative_of",
    "derives_further",
    "gather_over_processes",
    "held",
    "is_counting",
    "is_recomputing",
    "is_sharded",
    "last_real",
    "make_dropout",
    "may_own_derivative",
    "mean_error",
    "no_tokens",
    "once_a_pass",
    "one_pass",
    "padding",
    "pooled",
    "processes",
    "project",
    "rescale_",
    "rms_norm",
    "scale_residual_",
    "select_rows",
    "sent",
    "spans",
    "state_bytes",
    "stem_facts",
    "straight_through",
    "sum_over_processes",
    "take",
    "tensors_of",
    "tie_",
    "time_step_bias",
    "token_ids",
    "wide",
    "widened",
    "without_padding",
]
