"""The clusters of this user, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from furlong._home import home
from furlong.cluster.cluster import Cluster

__all__ = ["ClusterManager"]


class ClusterManager:
    """Clusters by their ids: those that were found by `load_clusters`, and those that were made by `new_cluster`."""

    def __init__(self) -> None:
        self._clusters: dict[str, Cluster] = {}

    @property
    def clusters(self) -> Mapping[str, Cluster]:
        """The clusters that are known here."""
        return dict(self._clusters)

    def load_clusters(self) -> Mapping[str, Cluster]:
        """Look for clusters that run, and return all that are known."""
        for folder in sorted(home().glob("*/")):
            if folder.name in self._clusters:
                continue
            try:
                found = Cluster.from_file(cluster_id=folder.name)
            except (FileNotFoundError, ValueError):
                continue
            if found.is_running:
                self._clusters[folder.name] = found
        return self.clusters

    def new_cluster(self, **options: Any) -> tuple[str, Cluster]:
        """Make a cluster, which is not started; give its id and itself."""
        made = Cluster(**options)
        if made.cluster_id in self._clusters:
            raise KeyError(f"there is a cluster {made.cluster_id!r} already")
        self._clusters[made.cluster_id] = made
        return made.cluster_id, made

    def get_cluster(self, cluster_id: str) -> Cluster:
        """Return a cluster by its id.

        Raises
        ------
        KeyError
            If it is not known here.
        """
        return self._clusters[cluster_id]

    def remove_cluster(self, cluster_id: str) -> None:
        """Forget a cluster; it goes on if it runs."""
        del self._clusters[cluster_id]
