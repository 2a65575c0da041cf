"""Everything that only a GPU can tell, in one command: the GPU tests, the loop, the decoder, the fused state-space
kernels, low-bit layers, mixtures of experts, transformers, and each family's speed.

python benchmarks/gpu.py [RESULT.json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
FAMILIES = ["transformer", "linear_attention", "lstm", "hybrid", "mamba", "mamba2", "mamba3", "jamba", "ternary"]


def families() -> dict[str, dict[str, object]]:
    """Tokens per second and peak memory of each preset at a size that fills a GPU, plain and compiled."""
    import zoo

    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as runs:
        for arch in FAMILIES:
            for compiled in ("false", "true"):
                words = [
                    f"arch={arch}",
                    "task=text",
                    "dim=512",
                    "layers=6",
                    "task.length=512",
                    "task.batch_size=32",
                    "steps=60",
                ]
                config = zoo.compose(
                    *words, f"trainer.compile={compiled}", "trainer=gpu", f"runs={runs}", "trainer.progress=false"
                )
                row = zoo.train(config)
                keys = ("tokens_per_second", "peak_memory_bytes", "precision", "parameters", "wall_seconds")
                found[f"{arch} compile={compiled}"] = {key: row[key] for key in keys}
                print(arch, compiled, json.dumps(found[f"{arch} compile={compiled}"]), flush=True)
    return found


def main() -> int:
    """Run it all and write the figures; 1 if a GPU test fails, 2 without a GPU."""
    if not torch.cuda.is_available():
        print("torch finds no CUDA device here")
        return 2
    import decoder
    import fused
    import loop
    import low_bit
    import moe
    import presets
    import sparse

    tests = subprocess.run([sys.executable, "-m", "pytest", str(ROOT / "tests/gpu"), "-q"], cwd=ROOT)
    results = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests": tests.returncode,
        "loop": loop.main(rounds=3, steps=200),
        "decoder": decoder.main(),
        "state space": fused.main(),
        "low bit": low_bit.main(),
        "mixtures of experts": moe.main(),
        "presets": presets.main(),
        "sparse attention": sparse.main(),
        "families": families(),
    }
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "gpu.json")
    target.write_text(json.dumps(results, indent=1))
    print(target)
    return 1 if tests.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
