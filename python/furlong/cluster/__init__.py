"""Clusters of this machine, started and stopped from Python."""

from furlong.cluster.cluster import Cluster

__all__ = ["Cluster"]
