"""BERT."""

from typing import Any

import torch
from torch import Tensor

from zoo import Correspondence, Family, register

from .common import ACTIVATIONS, activation, both, depth, layernorm, plain_attention, size, token_facts

TYPES = "bert.embeddings.token_type_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"


@register("family", "bert")
class Bert(Family):
    """BERT with its head for masked tokens (Devlin et al. 2018, arXiv:1810.04805), as ``BertForMaskedLM`` has it.

    Every token has the first token type, whose vector is added to each position's: there is no second sentence here.
    BERT's config does not give the number of the mask token. It is read from ``mask_token_id``, or else 103, as in the
    published vocabularies.
    """

    model_type, architecture, prefix = "bert", "BertForMaskedLM", "bert."
    ignored = (r"(bert\.pooler|cls\.seq_relationship)\..*", r".*\.position_ids")
    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    renames = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))

    example = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 11,
        "max_position_embeddings": 8,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
    }

    def __init__(self) -> None:
        """A table has no settings."""

    def words(self, config: dict[str, Any]) -> list[str]:
        """``arch=bert`` of this size."""
        # variants that have no counterpart here
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
            raise ValueError("it is a decoder, or has relative positions; expected an encoder with absolute ones")
        # then the preset, with this model's sizes
        mask = config.get("mask_token_id", min(103, config["vocab_size"] - 1))
        kind = activation(config["hidden_act"])
        if kind != "gelu":
            raise ValueError(f"its activation is {config['hidden_act']}; expected gelu")
        return [
            "arch=bert",
            *size(config, "hidden_size", "num_hidden_layers", "num_attention_heads"),
            f"ffn.hidden={config['intermediate_size']}",
            f"norm.eps={config['layer_norm_eps']}",
            f"objective.mask_token={mask}",
            f"objective.tied={str(config.get('tie_word_embeddings', True)).lower()}",
        ]

    def facts(self, config: dict[str, Any]) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return token_facts(config, "max_position_embeddings")

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """One to one, except for the token types, which :meth:`prepare` removes."""
        # embeddings and the prediction head
        rows = [
            Correspondence("bert.embeddings.word_embeddings.weight", ("stem.embedding.weight",)),
            Correspondence(POSITIONS, ("backbone.position.table.weight",)),
            *both("bert.embeddings.LayerNorm", "backbone.embeddings_norm"),
            *both("cls.predictions.transform.dense", "transform.linear"),
            *both("cls.predictions.transform.LayerNorm", "transform.norm"),
            Correspondence("cls.predictions.bias", ("head.bias",)),
        ]
        if not config.get("tie_word_embeddings", True):
            rows.append(Correspondence("cls.predictions.decoder.weight", ("head.weight",)))
        # the layers: attention, feed-forward, and the norm behind each (post-norm)
        for i in range(config["num_hidden_layers"]):
            theirs, ours = f"bert.encoder.layer.{i}.", f"backbone.blocks.{i}."
            for name in ("query", "key", "value"):
                rows += both(f"{theirs}attention.self.{name}", f"{ours}mixer.{name}")
            rows += both(theirs + "attention.output.dense", ours + "mixer.out")
            rows += both(theirs + "attention.output.LayerNorm", ours + "mixer_norm")
            rows += both(theirs + "intermediate.dense", ours + "ffn.up")
            rows += both(theirs + "output.dense", ours + "ffn.down")
            rows += both(theirs + "output.LayerNorm", ours + "ffn_norm")
        return rows

    def prepare(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
        """Add the vector of the first type to each position."""
        types = tensors.get(TYPES)
        if types is None or POSITIONS not in tensors:
            return tensors
        kept = {name: tensor for name, tensor in tensors.items() if name != TYPES}
        return kept | {POSITIONS: tensors[POSITIONS] + types[0]}

    def finish(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
        """Add token types of zeros."""
        positions = tensors[POSITIONS]
        return tensors | {TYPES: torch.zeros(config["type_vocab_size"], positions.shape[1], dtype=positions.dtype)}

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """What ``BertConfig`` takes."""
        plain_attention(objective)
        # sizes are read off the first block; all blocks are alike
        block = model.backbone.blocks[0]
        symbols = model.stem.embedding.num_embeddings
        return {
            "vocab_size": symbols,
            "hidden_size": model.head.in_features,
            "num_hidden_layers": depth(model),
            "num_attention_heads": block.mixer.heads,
            "intermediate_size": block.ffn.up.out_features,
            "hidden_act": ACTIVATIONS[block.ffn.activation.__name__],
            "max_position_embeddings": facts["max_len"],
            "type_vocab_size": 2,
            "layer_norm_eps": layernorm(block.mixer_norm).eps,
            "tie_word_embeddings": model.head.weight is model.stem.embedding.weight,
            "mask_token_id": model.mask_token,
            "pad_token_id": None,
        }
