"""What the tables of several families share."""

from typing import Any

from torch import nn

from zoo import Correspondence

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "gelu_sigmoid": "quick_gelu", "relu": "relu", "silu": "silu"}
"""Our names of activations, and the published ones."""
_THEIRS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}


def activation(name: str) -> str:
    """Our name for one of their activations.

    Raises:
        ValueError: there is none.
    """
    if name not in _THEIRS:
        raise ValueError(f"its activation {name} is none of ours, which are {', '.join(sorted(_THEIRS))}")
    return _THEIRS[name]


def size(config: dict[str, Any], dim: str, layers: str, heads: str) -> list[str]:
    """The overrides that set width, depth and heads, read under these names."""
    return [f"dim={config[dim]}", f"layers={config[layers]}", f"mixer.heads={config[heads]}"]


def token_facts(config: dict[str, Any], longest: str) -> dict[str, Any]:
    """Facts of a model with tokens in and out, whose longest sequence is read under this name."""
    symbols = config["vocab_size"]
    return {"vocab_size": symbols, "classes": symbols, "max_len": config[longest]}


def both(theirs: str, *ours: str, transposed: bool = False, bias: bool = True) -> list[Correspondence]:
    """The weight of one module there and here, and its bias if it has one."""
    rows = [Correspondence(theirs + ".weight", tuple(name + ".weight" for name in ours), transposed)]
    return rows + ([Correspondence(theirs + ".bias", tuple(name + ".bias" for name in ours))] if bias else [])


def depth(model: Any) -> int:
    """How many blocks a model has."""
    return len(model.backbone.blocks)


def layernorm(norm: nn.Module) -> nn.LayerNorm:
    """The norm, if it is a LayerNorm.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError("its norms are not LayerNorm")
    return norm


def plain_attention(objective: dict[str, Any]) -> None:
    """Check that every layer is full attention without sinks.

    Raises:
        ValueError: one is not.
    """
    backbone = objective["backbone"]
    pattern = backbone["pattern"]
    mixers = {"m": backbone["mixer"], "a": backbone["alternate_mixer"]}
    if not isinstance(pattern, str):
        raise ValueError(f"its layers are {pattern}; expected letters, with a mixer and a feed-forward each")
    if backbone["residual"]["_component_"] not in ("residual/pre", "residual/post") or backbone["loops"] != 1:
        raise ValueError("its layers join the stream in a way of their own, or run in a loop")
    for mixer in (mixers[letter] for letter in set(pattern)):
        name = mixer["_component_"].split("/")[1]
        if name != "attention" or mixer["window"] is not None or mixer["sinks"]:
            raise ValueError(f"its layers are {name}, in a window or with sinks perhaps; expected full attention")


def square(config: dict[str, Any], name: str) -> int:
    """The side of a square in pixels. A config may give one number, or height and width.

    Raises:
        ValueError: height and width differ, or it is neither.
    """
    value = config[name]
    sides = value if isinstance(value, list | tuple) else [value]
    if len(sides) not in (1, 2) or not all(type(side) is int for side in sides) or len(set(sides)) != 1:
        raise ValueError(f"its {name} is {value}, expected one side of a square")
    return int(sides[0])
