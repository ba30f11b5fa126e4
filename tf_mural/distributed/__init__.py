"""Processes of a run on any backend: cluster specification, rendezvous and process group.

The backends implement the transfer of arrays between processes, see
`backends/tensorflow/collectives.py` and `backends/jax/collectives.py`.
"""

from tf_mural.distributed.cluster_spec import ClusterSpec, expand_hostlist, resolve_cluster
from tf_mural.distributed.process_group import DistributedEmbedder, PeerLostError, ProcessGroup
from tf_mural.distributed.rendezvous import kill_after, rendezvous, unreachable, wait_for_peers

__all__ = [
    "ClusterSpec",
    "DistributedEmbedder",
    "PeerLostError",
    "ProcessGroup",
    "expand_hostlist",
    "kill_after",
    "rendezvous",
    "resolve_cluster",
    "unreachable",
    "wait_for_peers",
]
