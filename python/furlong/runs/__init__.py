"""Runs of tasks, by time: timelines, profiles and stacks, as pictures and files."""
