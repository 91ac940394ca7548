"""Modules of the user's own, which go along with functions, and installed ones, which do not."""
