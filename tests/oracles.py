"""Reference functions of the published package mamba-ssm, without its kernels.

Most of the package cannot be imported without CUDA, yet its references are plain PyTorch. They are read from its
sources, where it is installed (CONTRIBUTING.md says how), and run in float64.
"""

import ast
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

CALLED = {
    "selective_scan_ref": "ops/selective_scan_interface.py",
    "ssd_chunk_scan_combined_ref": "ops/triton/ssd_combined.py",
    "chunk_state_ref": "ops/triton/ssd_chunk_state.py",
    "state_passing_ref": "ops/triton/ssd_state_passing.py",
    "chunk_scan_ref": "ops/triton/ssd_chunk_scan.py",
    "rms_norm_ref": "ops/triton/layernorm_gated.py",
    "selective_state_update_fused_ref_v2": "ops/cute/mamba3/mamba3_step_fn.py",
    "apply_rotary_qk_inference_reference": "ops/triton/mamba3/mamba3_mimo_rotary_step.py",
}


@pytest.fixture
def published(monkeypatch):
    """A function of the published package by its name; what it computes in float32, it computes in float64."""
    einops = pytest.importorskip("einops")
    spec = find_spec("mamba_ssm")
    if spec is None:
        pytest.skip("mamba-ssm is not installed (CONTRIBUTING.md says how)")
    folder = Path(spec.submodule_search_locations[0])
    names = {"torch": torch, "F": F, "math": math, "rearrange": einops.rearrange, "repeat": einops.repeat}
    for name, file in CALLED.items():
        tree = ast.parse((folder / file).read_text())
        definition = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        definition.returns, definition.decorator_list = None, []
        for argument in definition.args.args:
            argument.annotation = None
        exec(compile(ast.Module([definition], []), file, "exec"), names)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return lambda name: names[name]
