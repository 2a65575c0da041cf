"""What predicting embeddings costs: beside a masked autoencoder, and beside lightly's models of the same sizes.

    python benchmarks/representation.py

First, a training step of ``jepa`` over one of ``reconstruct`` with the same encoder, divided by what it should be: the
ratio of their FLOPs with the same masks. Bar: at most 1.15. Second, a step of ours beside one made of lightly's modules
and losses as its examples have it. Bar: at least as fast. Theirs gets I-JEPA's masks ready made, ours draws them.

One process, one thread, by turns, with the same random numbers on both sides of a turn; medians of processor time and,
in brackets, quartiles of the turns' own ratios. Steps are forward, backward, AdamW and the teacher's update.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from timing import clock, quartiles, set_up
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.measure.flops import count
from zoo.registry.factory import Factory
from zoo.training.build import make_objective, make_task
from zoo_plugins.joint_embedding.views import shifted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INSTALL = 'pip install lightly timm torchvision "torch=={}"'.format(torch.__version__.partition("+")[0])
SIZES = {  # side of an image, of a patch, channels, layers
    "16 px, dim 64, 2 layers": (16, 2, 64, 2),
    "32 px, dim 128, 4 layers": (32, 4, 128, 4),
}
ENCODERS = {"attention": ["mixer=attention"], "mamba2": ["arch=mamba2"]}
Batch = dict[str, Tensor]


def ours(size: tuple[int, int, int, int], *words: str) -> tuple[nn.Module, Batch]:
    """One of our objectives on 64 images of 64 patches, and these."""
    sides = [
        f"{key}={value}" for key, value in zip(("task.size", "stem.patch_size", "dim", "layers"), size, strict=True)
    ]
    config = zoo.compose("task=shapes", *words, *sides, "position=sinusoidal_2d", "probe=linear")
    task = make_task(config)
    torch.manual_seed(0)
    return make_objective(config, task).to(DEVICE).train(), task.train_batch(0, 0, DEVICE)


def step_of(objective: nn.Module, batches: list[Batch]) -> Callable[[int], None]:
    """A training step on the batch of a turn."""
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = Factory(zoo.compose()["optimizer"])(parameters=trained)
    after = getattr(objective, "after_optimizer_step", lambda step, steps: None)

    def step(turn: int) -> None:
        loss = objective(batches[turn % len(batches)])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(turn, 1000)

    return step


def by_turns(contenders: dict[str, Callable[[int], None]], turns: int, cuda: bool) -> dict[str, list[float]]:
    """The seconds of each turn's call of each contender, after three calls to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in [0, 1, 2, *range(turns)]:
        for name, call in reversed(contenders.items()) if turn % 2 else contenders.items():
            torch.manual_seed(turn)  # sizes of masks are drawn: both sides of a turn, and its FLOPs, have the same
            start = clock(cuda)
            call(turn)
            seconds[name].append(clock(cuda) - start)
    return {name: values[3:] for name, values in seconds.items()}


def flops(objective: nn.Module, batches: list[Batch], turns: int) -> list[int]:
    """FLOPs of forward and backward of each turn."""
    counts = []
    for turn in range(turns):
        torch.manual_seed(turn)
        counts.append(count(objective, batches[turn % len(batches)])[1])
    return counts


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Medians."""
    return {f"{name} ms": round(1e3 * statistics.median(values), 2) for name, values in seconds.items()}


def overhead(size: tuple[int, int, int, int], encoder: list[str], turns: int, cuda: bool) -> dict[str, Any]:
    """Time of predicting embeddings over time of predicting pixels, and that over the ratio of FLOPs."""
    made = {name: ours(size, *encoder, f"objective={name}") for name in ("jepa", "reconstruct")}
    work = {name: flops(objective, [batch], turns) for name, (objective, batch) in made.items()}
    seconds = by_turns({name: step_of(objective, [batch]) for name, (objective, batch) in made.items()}, turns, cuda)
    time = [a / b for a, b in zip(seconds["jepa"], seconds["reconstruct"], strict=True)]
    wanted = [a / b for a, b in zip(work["jepa"], work["reconstruct"], strict=True)]
    return {
        **milliseconds(seconds),
        "time": quartiles(time),
        "FLOPs": quartiles(wanted),
        "time / FLOPs": quartiles([a / b for a, b in zip(time, wanted, strict=True)]),
    }


class TheirJEPA(nn.Module):
    """I-JEPA as lightly's example puts it together."""

    def __init__(self, encoder: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, batch: Batch) -> Batch:
        """The loss with the masks of the batch."""
        from lightly.models import utils

        context, targets = batch["context"], list(batch["targets"].unbind(1))
        with torch.no_grad():
            wanted = self.teacher.encode(batch["inputs"])
            wanted = utils.apply_masks(F.layer_norm(wanted, wanted.shape[-1:]), targets)
        seen = self.encoder.encode(batch["inputs"], idx_keep=context)
        return {"loss": F.smooth_l1_loss(self.predictor(seen, context, targets), wanted)}

    def after_optimizer_step(self, step: int, steps: int) -> None:
        """The teacher follows, by lightly's faster way, which its example of I-JEPA does not use."""
        from lightly.models import utils

        utils.update_momentum(self.encoder, self.teacher, 0.99 + 0.01 * step / steps)


class TheirMAE(nn.Module):
    """A masked autoencoder as lightly's example puts it together, with normalised pixels as ours has."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, dim: int, width: int, patch: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.patch = encoder, decoder, patch
        self.into, self.out = nn.Linear(dim, width), nn.Linear(width, patch**2)

    def forward(self, batch: Batch) -> Batch:
        """The loss with masks that are drawn here."""
        from lightly.models import utils

        images, length = batch["inputs"], self.decoder.sequence_length
        keep, hide = utils.random_token_mask((len(images), length), 0.75, mask_class_token=True, device=images.device)
        seen = self.into(self.encoder.encode(images, idx_keep=keep))
        line = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        said = self.out(utils.get_at_index(self.decoder(utils.set_at_index(line, keep, seen)), hide))
        wanted = utils.get_at_index(utils.patchify(images, self.patch), hide)
        return {"loss": F.mse_loss(said, utils.normalize_mean_var(wanted))}


class TheirPairs(nn.Module):
    """Two views as lightly's examples encode them, one after the other; the views are ours."""

    def __init__(self, encoder: nn.Module, head: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.head, self.loss = encoder, head, loss

    def forward(self, batch: Batch) -> Batch:
        """The loss of their projections."""
        a, b = (self.head(self.encoder.encode(shifted(batch["inputs"])).mean(1)) for _ in range(2))
        return {"loss": self.loss(a, b)}


def theirs(method: str, size: tuple[int, int, int, int], width: int = 32, depth: int = 2) -> nn.Module:
    """lightly's model of a method, of the sizes of ours."""
    from lightly import loss
    from lightly.models import modules
    from timm.models.vision_transformer import VisionTransformer

    side, patch, dim, layers = size
    facts = {"img_size": side, "patch_size": patch, "in_chans": 1, "embed_dim": dim, "depth": layers}
    vit = VisionTransformer(**facts, num_heads=dim // 32, num_classes=0, class_token=False, global_pool="")
    encoder = modules.MaskedVisionTransformerTIMM(vit)
    encoder.mask_token.requires_grad_(False)  # not used by these methods
    patches, heads = (side // patch) ** 2, width // 32
    if method == "jepa":
        return TheirJEPA(encoder, modules.IJEPAPredictorTIMM(patches, depth, dim, width, heads))
    if method == "reconstruct":
        decoder = modules.MaskedVisionTransformerDecoderTIMM(patches, width, depth, heads, num_prefix_tokens=0)
        return TheirMAE(encoder, decoder, dim, width, patch)
    sketched = loss.LeJEPALoss(sigreg_num_vectors=256).to(DEVICE)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "info_nce": loss.NTXentLoss(temperature=0.1),
        "variance_covariance": loss.VICRegLoss(),
        "sigreg": lambda a, b: sketched(local_proj=b[None], global_proj=a[None]),
    }
    return TheirPairs(encoder, modules.LeJEPAProjectionHead(dim, 4 * dim, 32, num_layers=2), losses[method])


def beside(method: str, size: tuple[int, int, int, int], turns: int, cuda: bool) -> dict[str, Any]:
    """Their time over ours."""
    named = method if method in ("jepa", "reconstruct") else f"jepa_pairs objective.loss={method}"
    mine, batch = ours(size, "arch=vit", "stem.class_token=false", *f"objective={named}".split())
    other, batches = theirs(method, size).to(DEVICE).train(), [batch]
    if method == "jepa":
        batches = []
        for turn in range(turns):
            torch.manual_seed(turn)
            batches.append({**batch, **dict(zip(("context", "targets"), mine.split(batch["inputs"]), strict=True))})
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (mine, other)]
    assert abs(counts[0] - counts[1]) <= 0.001 * counts[1], (method, counts)
    work = zip(flops(other, batches, len(batches)), flops(mine, [batch], len(batches)), strict=True)
    seconds = by_turns({"ours": step_of(mine, [batch]), "theirs": step_of(other, batches)}, turns, cuda)
    return {
        **milliseconds(seconds),
        "FLOPs theirs / ours": round(statistics.median(a / b for a, b in work), 3),
        "theirs / ours": quartiles([a / b for a, b in zip(seconds["theirs"], seconds["ours"], strict=True)]),
    }


def has_lightly() -> bool:
    """Whether lightly can be imported."""
    if any(find_spec(name) is None for name in ("lightly", "timm", "torchvision")):
        return False
    try:
        import torchvision  # noqa: F401
    except (
        RuntimeError
    ):  # built for CUDA and torch is not: operators that it describes, and nobody here calls, are gone
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return True


def main(turns: int = 30) -> dict[str, Any]:
    """Print and return both comparisons."""
    cuda = set_up()
    results = {}
    for label, size in SIZES.items():
        for encoder, words in ENCODERS.items():
            name = f"jepa over reconstruct, {encoder}, {label}"
            results[name] = overhead(size, words, turns, cuda)
            print(name, json.dumps(results[name]), flush=True)
    if has_lightly():
        for label, size in SIZES.items():
            for method in ("jepa", "reconstruct", "info_nce", "variance_covariance", "sigreg"):
                name = f"ours beside lightly's, {method}, {label}"
                results[name] = beside(method, size, turns, cuda)
                print(name, json.dumps(results[name]), flush=True)
    else:
        print(f"no lightly to compare with: {INSTALL}")
    for name, comparison in results.items():
        key = list(comparison)[-1]
        print(f"{name:<{max(map(len, results))}}  {key:<13}  {comparison[key]}")
    return results


if __name__ == "__main__":
    main()
