"""Furlong: a low-latency task farm and interactive parallel computing."""

from furlong._furlong import __version__ as __version__
