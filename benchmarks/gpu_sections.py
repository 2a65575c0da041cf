"""The sections of :mod:`gpu`: each measures one promise, side by side with whom it is made against."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain_gpt import PlainGPT, adamw
from timing import interleave
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.assembly import facts_of, make_objective, make_task
from zoo.errors import ZooError
from zoo.factory import Factory, build
from zoo.measure.ceiling import DTYPES, measure
from zoo.optimization import parameter_groups

ROOT = Path(__file__).parents[1]


@dataclass
class Line:
    """One figure; ``ratio`` is held against ``bar``, which it must reach, or with ``most`` not exceed."""

    name: str
    value: str
    ratio: float | None = None
    bar: float | None = None
    most: bool = False

    def met(self) -> bool | None:
        """Whether the bar is met; nothing where there is none."""
        if self.ratio is None or self.bar is None:
            return None
        return self.ratio <= self.bar if self.most else self.ratio >= self.bar


@dataclass(frozen=True)
class Scale:
    """Sizes for a GPU, or ``toy`` ones that only show that everything runs."""

    toy: bool

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cpu" if self.toy else "cuda")

    def of(self, full: Any, toy: Any) -> Any:
        """The one or the other."""
        return toy if self.toy else full


def ceiling(scale: Scale) -> Iterator[Line]:
    """What the device multiplies in a second."""
    for precision, dtype in DTYPES.items():
        if precision != "64-true" or not scale.toy:
            found = measure(scale.device, dtype, scale.of((4096, 8192), (128,)), scale.of(0.3, 0.02))
            yield Line(f"matmul ceiling, {precision}", f"{found / 1e12:.2f} TFLOP/s")


def small_step(scale: Scale) -> Iterator[Line]:
    """A step of a million parameters as it is trained, over the time of its kernels alone."""
    words = ["arch=transformer", "task=parity", f"dim={scale.of(160, 16)}", f"layers={scale.of(4, 1)}",
             "task.batch_size=64", f"steps={scale.of(600, 12)}", "trainer.progress=false",
             f"trainer={scale.of('gpu', 'cpu')}"]  # fmt: skip
    batch, kernels = _kernel_seconds(scale, zoo.compose(*words))
    for graph in scale.of(("false", "auto"), ("false",)):
        with tempfile.TemporaryDirectory() as runs:
            row = zoo.train(zoo.compose(*words, f"trainer.graph={graph}", "trainer.compile=false", f"runs={runs}"))
        seconds = batch / row["tokens_per_second"]
        said = row["implementations"].get("training step", "launch by launch")
        yield Line(
            f"step of {row['parameters']:,} parameters, graph={graph}",
            f"{seconds * 1e3:.2f} ms, kernels {kernels * 1e3:.2f} ms ({said})",
            seconds / kernels,
            1.5 if graph == "auto" else None,
            most=True,
        )


def _kernel_seconds(scale: Scale, config: Any) -> tuple[int, float]:
    """Tokens of a batch, and the seconds of all kernels of a plain step (on a processor, of its operations)."""
    task = make_task(config)
    model = make_objective(config, task).to(scale.device)
    optimizer = Factory(config["optimizer"])(parameters=parameter_groups(model))
    batch = task.train_batch(0, 0, scale.device)
    step = _step(scale, lambda: model(batch)["loss"], model, optimizer)
    for _ in range(3):
        step()
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CPU] if scale.toy else [kind.CPU, kind.CUDA]) as profile:
        step()
    if scale.toy:
        return task.tokens(batch), sum(event.self_cpu_time_total for event in profile.key_averages()) / 1e6
    kernels = [  # operations of the processor say the time of their kernels once more
        event
        for event in profile.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return task.tokens(batch), sum(event.self_device_time_total for event in kernels) / 1e6


def decoder(scale: Scale) -> Iterator[Line]:
    """A GPT-2 of 124 million parameters as nanoGPT trains it: ours, plain PyTorch, Hugging Face's; all compiled."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dim, layers, size, length, vocab = scale.of((768, 12, 12, 1024, 50304), (32, 1, 2, 16, 64))
    inputs, targets = torch.randint(vocab, (2, size, length), device=scale.device).unbind(0)
    config = zoo.compose("arch=gpt2", "task=text", f"dim={dim}", f"layers={layers}", f"task.length={length}")
    facts = facts_of(config, make_task(config)) | {"vocab_size": vocab, "classes": vocab}
    ours: Any = build(config["objective"], **facts).to(scale.device)
    plain = PlainGPT(vocab, dim, layers, length).to(scale.device)
    heads = max(1, dim // 64)
    names = {"vocab_size": vocab, "n_embd": dim, "n_layer": layers, "n_head": heads, "n_positions": length}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs = GPT2LMHeadModel(GPT2Config(**names, **dropouts, use_cache=False)).to(scale.device)
    losses: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "ours": (ours, lambda: ours({"inputs": inputs, "targets": targets})["loss"]),
        "plain PyTorch": (plain, lambda: plain(inputs, targets)),
        "Hugging Face": (
            theirs,
            lambda: F.cross_entropy(theirs(inputs).logits.flatten(0, 1).float(), targets.flatten()),
        ),
    }
    steps = {}
    for name, (model, loss) in losses.items():
        compiled = loss if scale.toy else torch.compile(loss)  # with the loss, for all three
        steps[name] = _step(scale, compiled, model, adamw(model))
    yield from _speeds("decoder", steps, size * length, scale, {"plain PyTorch": 0.95, "Hugging Face": 1.0}, [ours])


def state_spaces(scale: Scale) -> Iterator[Line]:
    """Mamba-1 and 2 on each of our ways, and mamba-ssm's own models of equal size."""
    dim, layers, size, length = scale.of((768, 8, 8, 2048), (32, 1, 2, 16))
    inputs, targets = torch.randint(256, (2, size, length), device=scale.device).unbind(0)

    def ours(arch: str, backend: str, compiled: bool = False) -> Callable[[], None]:
        words = [f"arch={arch}", "task=text", f"dim={dim}", f"layers={layers}", f"task.length={length}"]
        config = zoo.compose(*words, f"mixer.backend={backend}")
        model = make_objective(config, make_task(config)).to(scale.device)
        if compiled:
            model.compile()
        return _step(scale, lambda: model({"inputs": inputs, "targets": targets})["loss"], model)

    def theirs(layer: str) -> Callable[[], None]:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

        settings: dict[str, Any] = {"layer": layer, **({"d_state": 64} if layer == "Mamba2" else {})}
        config = MambaConfig(d_model=dim, n_layer=layers, vocab_size=256, ssm_cfg=settings, tie_embeddings=False)
        model = MambaLMHeadModel(config, device=scale.device)
        return _step(
            scale, lambda: F.cross_entropy(model(inputs).logits.flatten(0, 1).float(), targets.flatten()), model
        )

    for arch, layer in (("mamba", "Mamba1"), ("mamba2", "Mamba2")):
        makers: dict[str, Callable[[], Callable[[], None]]] = {"ours": lambda arch=arch: ours(arch, "auto")}
        if not scale.toy:
            ways = ["mamba_ssm", "torch", *(["triton"] if arch == "mamba" else [])]
            makers |= {f"ours, {way}": lambda arch=arch, way=way: ours(arch, way) for way in ways}
            makers["ours, torch, compiled"] = lambda arch=arch: ours(arch, "torch", True)
            makers[f"mamba-ssm's {layer}"] = lambda layer=layer: theirs(layer)
        steps, absent = {}, []
        for name, make in makers.items():
            try:
                steps[name] = make()
                steps[name]()
            except Exception as error:  # what does not run here is said, and the others are measured
                steps.pop(name, None)
                absent.append(Line(f"{arch}: {name}", f"does not run: {type(error).__name__}: {str(error)[:80]}"))
        yield from _speeds(arch, steps, size * length, scale, {f"mamba-ssm's {layer}": 0.95})
        yield from absent


def experts(scale: Scale) -> Iterator[Line]:
    """A mixture of experts against Hugging Face's block with grouped multiplies."""
    import moe

    dim, tokens = scale.of((1024, 16_384), (32, 64))
    moe.DEVICE = scale.device
    for count, top_k in scale.of(((8, 2), (64, 2)), ((4, 2),)):
        kind = torch.bfloat16  # weights too: Hugging Face's grouped multiply is not known to autocast
        x_BLD = torch.randn(1, tokens, dim, device=scale.device, dtype=kind, requires_grad=True)
        made = moe.layers(dim, count, top_k, 2 * dim)
        steps = {name: moe.step(made[name].to(kind), x_BLD) for name in ("ours", "Hugging Face, grouped_mm")}
        bars = {"Hugging Face, grouped_mm": 1.0}
        yield from _speeds(f"mixture of {count} experts, {top_k} a token", steps, tokens, scale, bars)


def precisions(scale: Scale) -> Iterator[Line]:
    """Each preset for text in bfloat16 over float32 with TF32: none may be slower."""
    dim, layers, size, length = scale.of((768, 4, 16, 512), (32, 2, 1, 16))
    for arch in sorted(path.stem for path in (ROOT / "conf/arch").glob("*.yaml")):
        words = [f"arch={arch}", "task=text", f"dim={dim}", f"layers={layers}", f"task.length={length}"]
        try:
            config = zoo.compose(*words, f"task.batch_size={size}")
            task = make_task(config)
            model = make_objective(config, task).to(scale.device)
            batch = task.train_batch(0, 0, scale.device)
            plain = _step(Scale(scale.toy), lambda m=model, b=batch: m(b)["loss"], model, autocast=False)
            mixed = _step(Scale(scale.toy), lambda m=model, b=batch: m(b)["loss"], model)
            plain()
            mixed()
        except (ValueError, ZooError) as error:  # what reads no text from left to right
            yield Line(f"{arch} in bfloat16", f"does not apply: {str(error).splitlines()[0][:70]}")
            continue
        except Exception as error:
            said = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:70]}"
            yield Line(f"{arch} in bfloat16", said, 0.0, 1.0)
            continue
        seconds = interleave({"float32": plain, "bfloat16": mixed}, scale.of(8, 1), not scale.toy)
        ratio = seconds["float32"] / seconds["bfloat16"]
        said = f"{size * length / seconds['bfloat16']:,.0f} tokens/s"
        yield Line(f"{arch} in bfloat16, speed over float32", said, ratio, None if scale.toy else 1.0)


def packing(scale: Scale) -> Iterator[Line]:
    """One comparison of small runs, one after another and several at once."""
    seconds = {}
    archs, rates, seeds, steps = scale.of(
        ("[transformer,linear_attention,mamba2,lstm,ternary]", "[0.003,0.01]", "[0,1]", 150),
        ("[transformer,lstm]", "[0.01]", "[0]", 4),
    )
    for workers in (1, 4):
        with tempfile.TemporaryDirectory() as runs:
            overrides = json.dumps([f"steps={steps}", f"trainer={scale.of('gpu', 'cpu')}"])
            words = ["smoke", "compare.only=[parity]", f"compare.archs={archs}", f"compare.seeds={seeds}",
                     "compare.claims=[]", f"compare.workers={workers}", f"compare.tune={{optimizer.lr:{rates}}}",
                     f"compare.overrides={overrides}", f"runs={runs}"]  # fmt: skip
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "zoo", "compare", *words], capture_output=True, text=True)
            seconds[workers] = time.perf_counter() - start
            if done.returncode:
                yield Line("packing", f"failed: {done.stderr.strip().splitlines()[-1][:100]}")
                return
            rows = [json.loads(path.read_text()) for path in Path(runs).glob("*/*/result.json")]
    gain = seconds[1] / seconds[4]
    said = f"{len(rows)} runs: {seconds[1]:.1f} s one by one, {seconds[4]:.1f} s with 4"
    yield Line("runs packed on one device", said, gain, None if scale.toy else 3.0)


def inference(scale: Scale) -> Iterator[Line]:
    """Reading a context and writing a token, against the length of the context."""
    from zoo.measure.inference import decoder as model_of
    from zoo.measure.inference import measure as measure_inference

    lengths = scale.of([1024, 4096, 16_384, 65_536], [16, 32])
    size = [f"dim={scale.of(768, 32)}", f"layers={scale.of(12, 1)}", "task=text"]
    models = {
        arch: model_of([f"arch={arch}", *size], lengths[-1] + 8).to(scale.device)
        for arch in ("transformer", "mamba", "mamba2", "hybrid")
    }
    for curve in measure_inference(models, lengths, scale.of(3, 1), 256, scale.device, lambda *rest: None):
        for what in ("prefill", "decode"):
            pairs = zip(lengths, curve.medians(what), strict=True)
            said = ", ".join(f"{length}: {value * 1e3:.2f} ms" for length, value in pairs)
            yield Line(f"{curve.contestant}, {what}", said)


def _step(
    scale: Scale,
    loss: Callable[[], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    autocast: bool = True,
) -> Callable[[], None]:
    """Forward and backward in bfloat16, and the optimizer's step where there is one."""

    def call() -> None:
        with torch.autocast(scale.device.type, torch.bfloat16, enabled=autocast):
            value = loss()
        model.zero_grad()
        value.backward()
        if optimizer is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return call


def _speeds(
    name: str,
    steps: dict[str, Callable[[], None]],
    tokens: int,
    scale: Scale,
    bars: dict[str, float],
    models: list[nn.Module] | None = None,
) -> Iterator[Line]:
    """Tokens per second of each, taken by turns; ours over each peer's with its bar."""
    seconds = interleave(steps, scale.of(12, 1), not scale.toy)
    size = "".join(f", {sum(p.numel() for p in model.parameters()):,} parameters" for model in models or [])
    for peer, value in seconds.items():
        ratio = value / seconds["ours"] if peer != "ours" and "ours" in seconds else None
        bar = None if scale.toy else bars.get(peer)
        said = f"{tokens / value:,.0f} tokens/s" + (size if peer == "ours" else "")
        yield Line(f"{name}: {peer}" if ratio is None else f"{name}: ours over {peer}", said, ratio, bar)


SECTIONS: dict[str, tuple[Callable[[Scale], Iterator[Line]], int]] = {
    "ceiling": (ceiling, 5),
    "small step": (small_step, 40),
    "decoder": (decoder, 150),
    "state spaces": (state_spaces, 150),
    "experts": (experts, 20),
    "precisions": (precisions, 80),
    "inference": (inference, 40),
    "packing": (packing, 110),
}
"""Each with the seconds that it may take, as far as that can be guessed: none is begun that would not end in time."""
