"""Environment variables of test processes that run on a backend of Keras."""

import os
import sys

# Flags of XLA for processes on JAX. They reduce the time of compilation by more than half, and all
# arithmetic remains in float32.
_FAST_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if sys.version_info < (3, 12):  # JAX 0.10.2. JAX 0.12 does not have this flag.
    _FAST_XLA += " --xla_cpu_use_fusion_emitters=false"


def backend_environment(backend, devices=1, **variables):
    """Returns the environment variables of a process on a backend, with CPU devices.

    Args:
        backend: "tensorflow" or "jax".
        devices: number of devices of JAX.
        **variables: further environment variables.
    """
    flags = f"{_FAST_XLA} --xla_force_host_platform_device_count={devices}"
    fixed = {"KERAS_BACKEND": backend, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return {**os.environ, **fixed, **variables}
