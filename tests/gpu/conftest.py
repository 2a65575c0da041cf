"""What CUDA reads once when it starts, and what no test may leave to the next."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")  # else cuDNN's LSTM and GRU need not repeat to the bit

from pathlib import Path

import pytest
import torch


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Without a GPU its tests are left out of a run of all tests; alone they are skipped one by one, with the reason."""
    here = Path(__file__).parent
    others = [item for item in items if here not in item.path.parents]
    if torch.cuda.is_available() or not others:
        return
    config.hook.pytest_deselected(items=[item for item in items if here in item.path.parents])
    items[:] = others


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
