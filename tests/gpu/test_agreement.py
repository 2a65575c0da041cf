"""CPU and CUDA agree, for every component; a component that does not is found out."""

import sys
from pathlib import Path

import pytest
import torch

from zoo.testing import CHECKS, parametrize_with_checks, parts

sys.path.append(str(Path(__file__).parents[1]))
import wrong

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@parametrize_with_checks("mixer", "cross", "ffn", "linear", "norm")
def test_a_component_keeps_its_laws_where_there_is_a_gpu(name, check):
    check(name)


def test_a_component_that_computes_otherwise_on_cuda_is_found_out(monkeypatch):
    class Otherwise(wrong.Mixer):
        def spoiled(self, x, y, whole):
            return 1.1 * y if y.is_cuda else y

    monkeypatch.setattr(parts, "part", lambda kind, name, *words, **facts: Otherwise())
    agrees = next(check for check in CHECKS["mixer"] if check.__name__ == "mixer_agrees_on_cuda")
    with pytest.raises(AssertionError, match="on CUDA, its output"):
        agrees("wrong")
