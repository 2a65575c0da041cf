"""Retentive networks for the zoo: the mixer ``retention`` and the preset ``arch=retentive``."""

from zoo_retention.retention import Retention, retain

__all__ = ["Retention", "retain"]
