"""The kinds of components, the facts that each kind may be told, and a component as its source describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoo.registry.signature import Parameter

KINDS: dict[str, str] = {
    "mixer": "mixes along the sequence: (B, L, D), state -> (B, L, D), state",
    "cross": "reads another sequence: (B, L, D), what read(memory) made of (B, M, D) -> (B, L, D)",
    "ffn": "mixes the channels of each token alone: (B, L, D) -> (B, L, D)",
    "linear": "a matrix multiply: (..., in_features) -> (..., out_features)",
    "norm": "normalises the channels: (..., D) -> (..., D)",
    "position": "says where a token is",
    "residual": "joins a branch to the residual stream: stream, branch -> stream",
    "stem": "raw inputs -> (B, L, D)",
    "backbone": "the residual stream: (B, L, D), state -> (B, L, D), state",
    "objective": "heads and a loss over a backbone: batch -> {'loss': ...}",
    "task": "data and the metric that judges it",
    "family": "a published family of models: its weights become ours, and back",
    "probe": "judges embeddings: fitted to labelled ones, (N, D) -> logits (N, C)",
    "optimizer": "named parameter groups -> torch.optim.Optimizer",
    "schedule": "step -> a multiplier of the learning rate",
}


RUN_PARTS = ("objective", "task", "probe", "optimizer", "schedule")
"""Kinds of which a run's config holds one component each; all others sit inside the objective."""

_SITE_FACTS = frozenset({"dim", "layer", "depth", "causal", "max_len", "grid"})


_DATA = frozenset({"vocab_size", "classes", "label_classes", "image_size", "channels"})


FACTS: dict[str, frozenset[str]] = {
    "mixer": _SITE_FACTS | {"vocab_size"},
    "cross": _SITE_FACTS,
    "ffn": _SITE_FACTS,
    "linear": _SITE_FACTS | {"in_features", "out_features", "bias"},
    "norm": _SITE_FACTS,
    "position": _SITE_FACTS | {"heads", "head_dim"},
    "stem": _SITE_FACTS | _DATA,
    "residual": _SITE_FACTS,
    "backbone": _SITE_FACTS | {"vocab_size", "reader", "parts"},
    "objective": _SITE_FACTS | _DATA,
    "task": frozenset(),
    "family": frozenset(),
    "probe": frozenset({"classes", "dim"}),
    "optimizer": frozenset({"parameters", "parameters_by_role"}),
    "schedule": frozenset({"steps"}),
}
"""What the place where a component sits tells it at build time; a signature asks for the subset that it needs."""


MODULES = ("mixer", "cross", "ffn", "linear", "norm", "position", "residual", "stem", "backbone", "objective")
"""Kinds whose components are modules of torch's."""
MAY_BE_NONE = ("ffn", "probe")
"""Kinds of which a component may build nothing."""
UNKNOWN_FACTS: dict[str, str] = {
    "vocab_size": "the task does not give tokens",
    "classes": "the task has no classes to predict",
    "image_size": "the task does not give images",
    "channels": "the task does not give images",
    "grid": "positions on a grid need a stem of images",
}
"""Why a place may not know a fact."""

PARTS = "parts"
"""What a backbone is told of the mixers and feed-forwards that the run names: a factory of each, by its name."""
PATTERN = "pattern"
"""The hyperparameter, a text or a list of texts, in which a backbone that takes ``parts`` names those that it wants."""
PART_KINDS = ("mixer", "ffn")
"""Kinds of which a run may name as many as it likes."""

_NAME = r"[A-Z][\w'-]+"


_CITATION = re.compile(
    rf"((?:[A-Z][\w-]* (?:AI|Team|team)|(?:van den )?{_NAME}(?: et al\.|(?:, {_NAME})* (?:and|&) {_NAME})?),? "
    r"(?:19|20)\d\d)"
    r"(?:,[^.;:()]*?(arXiv:\d{4}\.\d{4,5}))?"
)


@dataclass(frozen=True)
class Entry:
    """What is known of a component without importing it."""

    kind: str
    name: str
    module: str
    qualname: str
    parameters: tuple[Parameter, ...]
    doc: str
    provider: str = "here"
    choices: tuple[tuple[str, str], ...] = ()
    """Options of other groups that this one brings along, unless the user says otherwise."""

    @property
    def path(self) -> str:
        """Where the component is defined, as ``module.qualname``."""
        return f"{self.module}.{self.qualname}"

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().split("\n")[0] if self.doc else ""

    @property
    def citation(self) -> str:
        """The first paper that the docstring names, as it does: ``Gu and Dao 2023, arXiv:2312.00752``, or nothing."""
        match = _CITATION.search(" ".join(self.doc.split()))
        plainly = re.search(r"arXiv:\d{4}\.\d{4,5}", self.doc)
        return ", ".join(filter(None, match.groups())) if match else plainly[0] if plainly else ""

    def said_of(self, parameter: str) -> str:
        """What the docstring says of a parameter: its line under ``Args``, or the sentences that name it in quotes."""
        if listed := _listed(parameter, self.doc.expandtabs().splitlines()):
            return listed
        text = " ".join(self.doc.split())
        sentences: list[str] = []
        for part in re.split(r"(?<=[.;])(?<!al\.)(?<!\be\.g\.) +", text):
            if sentences and sentences[-1].count("(") > sentences[-1].count(")"):  # no end within brackets: (1 .. N)
                sentences[-1] += f" {part}"
            else:
                sentences.append(part)
        return " ".join(part for part in sentences if re.search(rf"``{parameter}(?:=[^`]*)?``", part))

    def components(self) -> dict[str, str]:
        """Parameters that are components themselves, with the kind of each."""
        return {p.name: kind for p in self.parameters if (kind := kind_of_parameter(p.name))}

    def hyperparameters(self) -> list[Parameter]:
        """Parameters that a config may set: neither facts of the place nor components."""
        facts = FACTS[self.kind]
        return [p for p in self.parameters if p.name not in facts and not kind_of_parameter(p.name)]


def kind_of_parameter(name: str) -> str | None:
    """The kind of component that a parameter of this name takes: ``linear``, ``alternate_mixer``, or none."""
    last = name.rsplit("_", 1)[-1]
    return name if name in KINDS else last if last in KINDS else None


_ENTRY = re.compile(r"( *)(\w+)(?: \([^)]*\))?:(?: +(.*)|)$")
"""A line that says of one parameter what it is."""


def _listed(parameter: str, lines: list[str]) -> str:
    """What the lines of a docstring say of a parameter: those behind its name, and all that are indented below it."""
    start = next((n for n, line in enumerate(lines) if (at := _ENTRY.match(line)) and at[2] == parameter), None)
    if start is None:
        return ""
    head = _ENTRY.match(lines[start])
    assert head is not None
    said = [head[3] or ""]
    ended = False  # by an empty line, after which only what is indented goes on
    for line in lines[start + 1 :]:
        if not line.strip():
            ended = True
            continue
        depth = len(line) - len(line.lstrip())
        if depth < len(head[1]) or (depth == len(head[1]) and (ended or _ENTRY.match(line))):
            break
        said.append(line)
    return " ".join(" ".join(said).split())


def unquoted(text: str) -> str:
    """A docstring's text without reStructuredText's quotes."""
    return re.sub(r"``|:\w+:`|`", "", text)
