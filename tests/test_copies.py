"""Fast copies of configs are what ``copy.deepcopy`` makes, node by node."""

import copy
from typing import get_args, get_origin

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ValidationError

from zoo.config.copies import Original
from zoo.config.hydra import composed, groups


def nodes(node, path=""):
    """Every node of a config with its path, containers before what they hold."""
    yield path, node
    content = node._content if OmegaConf.is_config(node) else None
    if isinstance(content, dict):
        for key, child in content.items():
            yield from nodes(child, f"{path}.{key}")
    elif isinstance(content, list):
        for index, child in enumerate(content):
            yield from nodes(child, f"{path}.{index}")


def metadata(node):
    """What a node knows of itself. OmegaConf pickles ``list[str]`` as ``typing.List[str]``, which is the same type."""
    known = dict(vars(node._metadata))
    return known | {"ref_type": (get_origin(known["ref_type"]) or known["ref_type"], get_args(known["ref_type"]))}


@pytest.mark.parametrize("arch", sorted(groups()["arch"]))
def test_a_copy_is_that_of_deepcopy(arch):
    config = composed("config", (f"arch={arch}",)).cfg
    expected, nodes_by_path = dict(nodes(copy.deepcopy(config))), dict(nodes(Original(config).copy()))
    assert list(nodes_by_path) == list(expected)
    for path, node in nodes_by_path.items():
        other = expected[path]
        assert type(node) is type(other), path
        assert metadata(node) == metadata(other), path
        assert node._metadata.object_type is other._metadata.object_type, path
        if not OmegaConf.is_config(node):
            assert node._value() == other._value(), path
        if path:
            assert node._get_parent() is nodes_by_path[path.rpartition(".")[0]], path


def test_copies_are_changed_one_by_one_and_refuse_what_the_config_refuses():
    config = composed("config", ("arch=transformer",)).cfg
    original = Original(config)
    first, second = original.copy(), original.copy()
    first.dim = 7
    assert (config.dim, second.dim) != (7, 7)
    assert second.dim == config.dim
    with pytest.raises(ValidationError):
        first.dim = "wide"
    with pytest.raises(ConfigAttributeError):
        first.dimension = 7
