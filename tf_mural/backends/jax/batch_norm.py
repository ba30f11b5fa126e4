"""Batch norm on JAX: XLA compiles the operations of `GhostBatchNormalization`."""


def batch_norm_kernel():
    """Returns None: JAX has no kernel of batch norm, and XLA fuses the separate operations."""
    return None
