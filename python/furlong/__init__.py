"""Furlong: a low-latency task farm and interactive parallel computing."""
