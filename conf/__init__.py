"""Choices that are not a class: presets, comparisons, machines. A component's defaults are its constructor's."""
