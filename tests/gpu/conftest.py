"""What CUDA reads once when it starts, and what no test may leave to the next."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")  # else cuDNN's LSTM and GRU need not repeat to the bit

import pytest
import torch


@pytest.fixture(autouse=True)
def settings_of_this_process():
    """Float32 multiplies in float32, for a run before may have chosen TF32; and afterwards all is as it was."""
    cudnn, cuda = torch.backends.cudnn, torch.cuda.is_available()
    precision, tf32 = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    flags = cudnn.deterministic, cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32 = tf32
    cudnn.deterministic, cudnn.benchmark = flags
    torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
    if cuda:
        torch.cuda.set_sync_debug_mode("default")
