"""The processes of a run, on any backend: which there are, whether they are there, what they tell.

What moves an array between them is the backend's: `distribute` has it for TensorFlow,
`distribute_jax` for JAX.
"""

from tf_mural.distributed.cluster_spec import Cluster, expand_hosts, find_cluster
from tf_mural.distributed.process_group import Processes, SharedEmbedder, WorkerLost
from tf_mural.distributed.rendezvous import limited, meet, meeting, unanswered

__all__ = [
    "Cluster",
    "Processes",
    "SharedEmbedder",
    "WorkerLost",
    "expand_hosts",
    "find_cluster",
    "limited",
    "meet",
    "meeting",
    "unanswered",
]
