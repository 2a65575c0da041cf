"""Nested brackets of bounded depth, for the zoo: ``task=dyck`` and ``zoo compare brackets``."""
