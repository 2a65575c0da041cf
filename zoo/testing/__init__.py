"""The checks that every plugin must pass, ours and yours alike: ``@parametrize_with_checks("mixer")``."""

from zoo.testing.checks import CHECKS as CHECKS
from zoo.testing.checks import parametrize_with_checks as parametrize_with_checks

__all__ = ["CHECKS", "parametrize_with_checks"]
