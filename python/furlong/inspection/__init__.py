"""Interpreters as they are seen from outside: where one is, and where it was over a time."""
