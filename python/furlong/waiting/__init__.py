"""Waiting: signals, the threads that learn of ends, and what a person sees meanwhile."""
