"""The sections of :mod:`gpu`: each measures one promise, side by side with whom it is made against."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from plain_gpt import PlainGPT, adamw
from timing import by_turns, interleave, interval
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.registry.factory import Factory, build
from zoo.training.build import facts_of, make_objective, make_task
from zoo.training.ceiling import DTYPES, measure
from zoo.training.parameter_groups import parameter_groups

ROOT = Path(__file__).parents[1]
Call = Callable[[], None]
STATES = 64
"""Of Mamba-2, in ours and theirs."""


@dataclass
class Line:
    """One figure; ``ratio`` is held against ``bar``, which it must reach, or with ``most`` not exceed.

    Where ``high`` is given, the end of the ratio's 95 % interval, that must reach the bar: noise alone misses none.
    """

    name: str
    value: str
    ratio: float | None = None
    bar: float | None = None
    most: bool = False
    high: float | None = None
    failed: bool = False

    def status(self) -> str | None:
        """Whether its bar is ``met``, ``missed`` or ``not measured``; nothing where there is none."""
        if self.failed:
            return "not measured"
        if self.bar is None:
            return None
        if self.ratio is None:
            return "not measured"
        held = self.ratio if self.high is None else self.high
        return "met" if (held <= self.bar if self.most else held >= self.bar) else "missed"


class Bar(NamedTuple):
    """What was promised: at least this, or with ``most`` at most."""

    value: float
    most: bool = False


@dataclass(frozen=True)
class Section:
    """What it runs, the seconds that it may take as far as can be guessed, and its promises by their lines' names."""

    measure: Callable[[Scale], Iterator[Line]]
    seconds: int
    promised: dict[str, Bar] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """Sizes for a GPU, or ``toy`` ones that only show that everything runs; and by which clock all must be done."""

    toy: bool
    end: float = math.inf

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cpu" if self.toy else "cuda")

    def of(self, full: Any, toy: Any) -> Any:
        """The one or the other."""
        return toy if self.toy else full

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def line(self, name: str, value: str, ratio: float | None = None, high: float | None = None) -> Line:
        """A figure, with the bar that was promised of it, if there is one; sizes that say nothing meet none."""
        promised = (
            {} if self.toy else {key: bar for section in SECTIONS.values() for key, bar in section.promised.items()}
        )
        bar = promised.get(name)
        return Line(name, value, ratio, bar and bar.value, bool(bar and bar.most), high)


def ceiling(scale: Scale) -> Iterator[Line]:
    """What the device multiplies in a second."""
    for precision, dtype in DTYPES.items():
        if precision != "64-true" or not scale.toy:
            rate = measure(scale.device, dtype, scale.of((4096, 8192), (128,)), scale.of(0.3, 0.02))
            yield Line(f"matmul ceiling, {precision}", f"{rate / 1e12:.2f} TFLOP/s")


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
        yield scale.line(
            f"small step over its kernels, graph={graph}",
            f"{row['parameters']:,} parameters: {seconds * 1e3:.2f} ms, kernels {kernels * 1e3:.2f} ms ({said})",
            seconds / kernels,
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


Losses = dict[str, tuple[nn.Module, Callable[[], Tensor]]]
"""Of each contestant its model and what computes its loss of the one batch."""


def _ours_and_batch(
    scale: Scale, arch: str, dim: int, layers: int, heads: int, size: int, length: int, vocab: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A decoder of ours, and inputs and targets for it and its rivals."""
    inputs, targets = torch.randint(vocab, (2, size, length), device=scale.device).unbind(0)
    words = [f"arch={arch}", f"dim={dim}", f"layers={layers}", f"mixer.heads={heads}", f"task.length={length}"]
    return _ours(scale, vocab, *words), inputs, targets


def decoder(scale: Scale) -> Iterator[Line]:
    """A GPT-2 of 124 million parameters as nanoGPT trains it: ours, plain PyTorch, Hugging Face's; all compiled."""
    yield from _trained("decoder", gpt2s(scale), scale.of(12 * 1024, 32), scale)


def gpt2s(scale: Scale) -> Losses:
    """The same GPT-2 three times, with heads of 64."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dim, layers, heads, size, length, vocab = scale.of((768, 12, 12, 12, 1024, 50304), (32, 1, 2, 2, 16, 64))
    ours, inputs, targets = _ours_and_batch(scale, "gpt2", dim, layers, heads, size, length, vocab)
    plain = PlainGPT(vocab, dim, layers, heads, length).to(scale.device)
    names = {"vocab_size": vocab, "n_embd": dim, "n_layer": layers, "n_head": heads, "n_positions": length}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs = GPT2LMHeadModel(GPT2Config(**names, **dropouts, use_cache=False)).to(scale.device)
    return {
        "ours": (ours, lambda: ours({"inputs": inputs, "targets": targets})["loss"]),
        "plain PyTorch": (plain, lambda: plain(inputs, targets)),
        "Hugging Face": (theirs, lambda: _loss(theirs(inputs).logits, targets)),
    }


def llama(scale: Scale) -> Iterator[Line]:
    """A Llama beside Hugging Face's, compiled, trained as the GPT-2; half as deep, for compilers take time by layer."""
    yield from _trained("llama", llamas(scale), scale.of(12 * 1024, 32), scale)


def llamas(scale: Scale) -> Losses:
    """The same Llama twice, with heads of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dim, layers, heads, size, length, vocab = scale.of((768, 6, 12, 12, 1024, 32_000), (32, 1, 2, 2, 16, 64))
    ours, inputs, targets = _ours_and_batch(scale, "llama", dim, layers, heads, size, length, vocab)
    hidden = ours.get_parameter("backbone.blocks.0.ffn.up.weight").shape[0]
    names = {"vocab_size": vocab, "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers}
    names |= {"num_attention_heads": heads, "max_position_embeddings": length}
    theirs = LlamaForCausalLM(LlamaConfig(**names, rms_norm_eps=1e-5, use_cache=False)).to(scale.device)
    return {
        "ours": (ours, lambda: ours({"inputs": inputs, "targets": targets})["loss"]),
        "Hugging Face": (theirs, lambda: _loss(theirs(inputs).logits, targets)),
    }


def _ours(scale: Scale, vocab: int, *words: str) -> Any:
    """One of our decoders, of text with so many symbols."""
    config = zoo.compose("task=text", *words)
    facts = facts_of(config, make_task(config)) | {"vocab_size": vocab, "classes": vocab}
    return build(config["objective"], **facts).to(scale.device)


def _loss(logits_BLC: Tensor, targets_BL: Tensor) -> Tensor:
    return F.cross_entropy(logits_BLC.flatten(0, 1).float(), targets_BL.flatten())


def parameters_of(model: nn.Module) -> int:
    """How many numbers it learns; a tied weight counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _trained(name: str, losses: Losses, tokens: int, scale: Scale) -> Iterator[Line]:
    """The speeds of whole steps, compiled with the loss; models that are not the same size are not compared."""
    sizes = {peer: parameters_of(model) for peer, (model, _) in losses.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"unlike models: {sizes}")
    steps = {}
    for peer, (model, loss) in losses.items():
        steps[peer] = _step(scale, loss if scale.toy else torch.compile(loss), model, adamw(model))
    yield from _speeds(name, steps, tokens, scale, f", {sizes['ours']:,} parameters each")


def state_spaces(scale: Scale) -> Iterator[Line]:
    """Mamba-1 and 2 on each of our ways, and mamba-ssm's own models of equal size; then Hugging Face's Mamba."""
    size, length = scale.of((8, 2048), (2, 16))
    for arch, layer in (("mamba", "Mamba1"), ("mamba2", "Mamba2")):
        makers = {"ours": lambda arch=arch: _mamba(scale, size, length, arch, "auto")}
        if not scale.toy:
            makers[f"mamba-ssm's {layer}"] = lambda layer=layer: _published(scale, size, length, layer)
            ways = {"mamba": ["mamba_ssm", "triton"], "mamba2": ["mamba_ssm", "torch"]}[arch]
            makers |= {
                f"ours, {way}": lambda arch=arch, way=way: _mamba(scale, size, length, arch, way) for way in ways
            }
        if not scale.toy and arch == "mamba2":
            makers["ours, torch, compiled"] = lambda: _mamba(scale, size, length, "mamba2", "torch", True)
        yield from _those_that_run(arch, makers, size * length, scale)
    size, length = scale.of((4, 512), (2, 16))  # without mamba-ssm both of these read token by token from Python
    makers = {"ours": lambda: _mamba(scale, size, length, "mamba", "auto")}
    if not scale.toy:
        makers["ours, torch"] = lambda: _mamba(scale, size, length, "mamba", "torch")
    makers["Hugging Face"] = lambda: _hugging_face_mamba(scale, size, length)
    yield from _those_that_run("mamba, short", makers, size * length, scale, scale.of(4, 1))


MEMORIES = ("gated_deltanet", "kda", "rwkv7")


def matrix_memories(scale: Scale) -> Iterator[Line]:
    """Matrix memories as they are chosen, by flash-linear-attention's kernels where these work, and in PyTorch."""
    size, length, layers = scale.of((8, 2048, 4), (2, 16, 1))
    inputs, targets = torch.randint(256, (2, size, length), device=scale.device).unbind(0)

    def made(arch: str, backend: str) -> Call:
        words = [f"dim={scale.of(768, 32)}", f"layers={layers}", f"task.length={length}", f"mixer.backend={backend}"]
        model = _ours(scale, 256, f"arch={arch}", *words)
        return _step(scale, lambda: model({"inputs": inputs, "targets": targets})["loss"], model)

    for arch in MEMORIES:
        ways = {"ours": scale.of("fla", "torch"), "ours, torch": "torch"}
        makers = {name: lambda arch=arch, way=way: made(arch, way) for name, way in ways.items()}
        yield from _those_that_run(arch, makers, size * length, scale, scale.of(4, 1))


def _mamba_size(scale: Scale) -> tuple[int, int]:
    return scale.of((768, 8), (32, 1))  # type: ignore[no-any-return]


def _mamba(scale: Scale, size: int, length: int, arch: str, backend: str, compiled: bool = False) -> Call:
    dim, layers = _mamba_size(scale)
    inputs, targets = torch.randint(256, (2, size, length), device=scale.device).unbind(0)
    words = [f"arch={arch}", f"dim={dim}", f"layers={layers}", f"task.length={length}", f"mixer.backend={backend}"]
    words += [f"mixer.state_size={STATES}", "mixer.head_dim=64"] if arch == "mamba2" else []
    model = _ours(scale, 256, *words)
    if compiled:
        model.compile()
    return _step(scale, lambda: model({"inputs": inputs, "targets": targets})["loss"], model)


def _published(scale: Scale, size: int, length: int, layer: str) -> Call:
    """mamba-ssm's own model."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    dim, layers = _mamba_size(scale)
    inputs, targets = torch.randint(256, (2, size, length), device=scale.device).unbind(0)
    settings: dict[str, Any] = {"layer": layer, **({"d_state": STATES} if layer == "Mamba2" else {})}
    config = MambaConfig(d_model=dim, n_layer=layers, vocab_size=256, ssm_cfg=settings, tie_embeddings=False)
    model = MambaLMHeadModel(config, device=scale.device)
    return _step(scale, lambda: _loss(model(inputs).logits, targets), model)


def _hugging_face_mamba(scale: Scale, size: int, length: int) -> Call:
    from transformers import MambaConfig, MambaForCausalLM

    dim, layers = _mamba_size(scale)
    inputs, targets = torch.randint(256, (2, size, length), device=scale.device).unbind(0)
    names = {"vocab_size": 256, "hidden_size": dim, "num_hidden_layers": layers, "tie_word_embeddings": False}
    model = MambaForCausalLM(MambaConfig(**names, use_cache=False)).to(scale.device).train()
    return _step(scale, lambda: _loss(model(inputs).logits, targets), model)


def _those_that_run(
    name: str, makers: dict[str, Callable[[], Call]], tokens: int, scale: Scale, rounds: int | None = None
) -> Iterator[Line]:
    """The speeds of those that run here; what does not is said, and no bar against it is met."""
    steps, absent = {}, {}
    for peer, make in makers.items():
        try:
            steps[peer] = make()
            steps[peer]()
        except Exception as error:
            steps.pop(peer, None)
            absent[peer] = f"does not run: {type(error).__name__}: {str(error)[:80]}"
    yield from _speeds(name, steps, tokens, scale, rounds=rounds)
    for peer, why in absent.items():
        yield scale.line(_versus(name, peer, "ours" in steps), why)


def experts(scale: Scale) -> Iterator[Line]:
    """A mixture of experts against Hugging Face's, Mixtral's block, with grouped multiplies."""
    import moe

    dim, tokens = scale.of((1024, 16_384), (32, 64))
    moe.DEVICE = scale.device
    for count, top_k in scale.of(((8, 2), (64, 2)), ((4, 2),)):
        kind = torch.bfloat16  # weights too: Hugging Face's grouped multiply is not known to autocast
        x_BLD = torch.randn(1, tokens, dim, device=scale.device, dtype=kind, requires_grad=True)
        made = moe.layers(dim, count, top_k, 2 * dim)
        steps = {name: moe.step(made[name].to(kind), x_BLD) for name in ("ours", "Hugging Face, grouped_mm")}
        yield from _speeds(f"{count} experts, {top_k} a token", steps, tokens, scale)


PRESETS = sorted(path.stem for path in (ROOT / "conf/arch").glob("*.yaml"))
READ_NO_TEXT = ("vaswani", "vit")


def precisions(scale: Scale) -> Iterator[Line]:
    """Each preset for text in bfloat16 over float32 with TF32: of none is the interval below one.

    The cells of LSTM and GRU compute in float32 either way, so they may well come out even, and noise goes both ways.
    """
    dim, layers, size, length = scale.of((768, 4, 16, 512), (32, 2, 1, 16))
    for arch in (arch for arch in PRESETS if arch not in READ_NO_TEXT):
        name = f"{arch}: bfloat16 over float32"
        words = [f"dim={dim}", f"layers={layers}", f"task.length={length}", f"task.batch_size={size}"]
        try:
            config = zoo.compose(f"arch={arch}", "task=text", *heads(scale, arch), *words)
            task = make_task(config)
            model = make_objective(config, task).to(scale.device)
            batch = task.train_batch(0, 0, scale.device)
            plain = _step(scale, lambda m=model, b=batch: m(b)["loss"], model, autocast=False)
            mixed = _step(scale, lambda m=model, b=batch: m(b)["loss"], model)
            seconds = by_turns({"float32": plain, "bfloat16": mixed}, scale.of(12, 1), not scale.toy)
        except Exception as error:
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:70]}"
            yield Line(name, f"failed: {said}", failed=True)
            continue
        low, ratio, high = interval([a / b for a, b in zip(seconds["float32"], seconds["bfloat16"], strict=True)])
        speed = size * length / statistics.median(seconds["bfloat16"])
        yield scale.line(name, f"95 % interval {low:.3f} to {high:.3f}; {speed:,.0f} tokens/s", ratio, high)


def heads(scale: Scale, arch: str) -> list[str]:
    """What gives a preset's attention heads of 64, as published models have them; the zoo's own are for small ones."""
    config = zoo.compose(f"arch={arch}", "task=text")
    backbone = config["objective"]["backbone"]
    nodes, uses = {**backbone, **backbone["parts"]}, make_objective(config, make_task(config)).backbone.uses()
    sites = [name for name, used in uses.items() if used and nodes[name]["_component_"] == "mixer/attention"]
    return [f"{name}.head_dim={scale.of(64, 16)}" for name in sites]


GRID = "comparison of 45 runs, 4 at once: sooner than one by one"


def packing(scale: Scale) -> Iterator[Line]:
    """A comparison of 5 families x 3 rates x 3 seeds one run after another, and 4 and 8 at once.

    And each family's best once more, as comparisons do: 50 runs. The bar is held against the whole command: start-up,
    planning and the report too. What the runs alone took, from the first one's start to the last one's end, is said.
    """
    archs, rates, seeds, steps = scale.of(
        ("[transformer,linear_attention,mamba2,lstm,ternary]", "[0.001,0.003,0.01]", "[1000,1001,1002]", 150),
        ("[transformer,lstm]", "[0.01]", "[1000]", 4),
    )
    whole, alone = {}, {}
    for workers in scale.of((1, 4, 8), (1, 4)):
        wait = 1.5 * whole[4] if 4 in whole else scale.left()
        if workers == 8 and wait > scale.left():
            yield Line(
                "comparison of 45 runs, 8 at once", f"not run: it may take {wait:.0f} s, {scale.left():.0f} are left"
            )
            continue
        with tempfile.TemporaryDirectory() as runs:
            overrides = json.dumps([f"steps={steps}", f"trainer={scale.of('gpu', 'cpu')}"])
            words = ["smoke", "compare.only=[parity]", f"compare.archs={archs}", "compare.seeds=[0]",
                     f"compare.tune_seeds={seeds}", "compare.claims=[]", f"compare.workers={workers}",
                     f"compare.tune={{optimizer.lr:{rates}}}", f"compare.overrides={overrides}",
                     f"runs={runs}"]  # fmt: skip
            command, start = [sys.executable, "-m", "zoo", "compare", *words], time.perf_counter()
            limit = None if scale.toy else max(1.0, scale.left())
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
            whole[workers] = time.perf_counter() - start
            if done.returncode:
                raise RuntimeError(f"{workers} at once: {(done.stderr.strip().splitlines() or ['no word'])[-1][:100]}")
            ends = [(path.stat().st_mtime, json.loads(path.read_text())) for path in Path(runs).glob("*/*/result.json")]
        alone[workers] = max(end for end, _ in ends) - min(end - row["wall_seconds"] for end, row in ends)
        said = f"{len(ends)} runs in {whole[workers]:.1f} s with start-up and report, {alone[workers]:.1f} s without"
        if workers == 1:
            yield Line("comparison of 45 runs, one by one", said)
            continue
        name = GRID if workers == 4 else "comparison of 45 runs, 8 at once: sooner than one by one"
        said += f", in which {alone[1] / alone[workers]:.2f} times sooner"
        yield scale.line(name, said, whole[1] / whole[workers])


def inference(scale: Scale) -> Iterator[Line]:
    """Reading a context and writing a token, against the length of the context."""
    from zoo.models.speed import decoder as model_of
    from zoo.models.speed import measure as measure_inference

    lengths = scale.of([1024, 4096, 16_384, 65_536], [16, 32])
    size = [f"dim={scale.of(768, 32)}", f"layers={scale.of(12, 1)}", "task=text"]
    models = {
        arch: model_of([f"arch={arch}", *heads(scale, arch), *size], lengths[-1] + 8).to(scale.device)
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
) -> Call:
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


def _versus(name: str, peer: str, there: bool = True) -> str:
    """The name of the line that holds ours against a peer, or where ours is not there, of the peer's own."""
    return f"{name}: ours over {peer}" if there and peer != "ours" else f"{name}: {peer}"


def _speeds(
    name: str, steps: dict[str, Call], tokens: int, scale: Scale, more: str = "", rounds: int | None = None
) -> Iterator[Line]:
    """Tokens per second of each, taken by turns; ours over each peer's."""
    seconds = interleave(steps, rounds or scale.of(12, 1), not scale.toy)
    for peer, value in seconds.items():
        ratio = value / seconds["ours"] if peer != "ours" and "ours" in seconds else None
        said = f"{tokens / value:,.0f} tokens/s" + (more if peer == "ours" else "")
        yield scale.line(_versus(name, peer, "ours" in seconds), said, ratio)


SECTIONS = {
    "ceiling": Section(ceiling, 5),
    "small step": Section(small_step, 40, {"small step over its kernels, graph=auto": Bar(1.5, most=True)}),
    "decoder": Section(
        decoder, 120, {"decoder: ours over plain PyTorch": Bar(0.95), "decoder: ours over Hugging Face": Bar(1.0)}
    ),
    "packing": Section(packing, 130, {GRID: Bar(3.0)}),
    "state spaces": Section(
        state_spaces,
        90,
        {"mamba: ours over mamba-ssm's Mamba1": Bar(0.95), "mamba2: ours over mamba-ssm's Mamba2": Bar(0.95)},
    ),
    "matrix memories": Section(matrix_memories, 25, {f"{arch}: ours over ours, torch": Bar(1.0) for arch in MEMORIES}),
    "experts": Section(
        experts,
        15,
        {f"{count} experts, 2 a token: ours over Hugging Face, grouped_mm": Bar(1.0) for count in (8, 64)},
    ),
    "precisions": Section(
        precisions, 85, {f"{arch}: bfloat16 over float32": Bar(1.0) for arch in PRESETS if arch not in READ_NO_TEXT}
    ),
    "llama": Section(llama, 45, {"llama: ours over Hugging Face": Bar(1.0)}),
    "inference": Section(inference, 35),
}
"""The seconds are guesses that nobody has measured, which fit together in the time; none is begun that would not end in
it, and what nothing was promised of comes last."""
