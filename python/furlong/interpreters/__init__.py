"""Interpreters of engines as they are looked at: stacks, profiles, and a debugger after the end."""
