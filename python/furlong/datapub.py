"""Intermediate data, under the name that ipyparallel has for it."""

from furlong._engine import publish_data

__all__ = ["publish_data"]
