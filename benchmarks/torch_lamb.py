"""LAMB in PyTorch, in as few passes over the weights as `torch._foreach_*` allows."""

import math


class LAMB:
    """LAMB on lists of tensors (`torch._foreach_*`), with the options of configs/etcl.py.

    Args:
        named_parameters: pairs of (name, parameter).
        learning_rate: float.
        weight_decay: the update of a weight contains the weight times this factor.
        betas: decay rates of the two moments.
        epsilon: constant for numerical stability.
    """

    def __init__(
        self,
        named_parameters,
        learning_rate=1e-4,
        weight_decay=1e-5,
        betas=(0.9, 0.999),
        epsilon=1e-6,
    ):
        import torch

        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.betas, self.epsilon = betas, epsilon
        self.steps = 0
        named_parameters = sorted(named_parameters, key=lambda pair: self._group(pair[0]))
        groups = [self._group(name) for name, _ in named_parameters]
        self.parameters = [parameter for _, parameter in named_parameters]
        self.momentums = [torch.zeros_like(p) for p in self.parameters]
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.num_decayed, self.num_adapted = groups.count(0), len(groups) - groups.count(2)

    @staticmethod
    def _group(name):
        """Returns the group of a parameter.

        Group 0 has weight decay and layer adaptation, group 1 has only layer adaptation, and group
        2 has neither.
        """
        if any(part in name for part in ("batchnorm", "_bn", "depthwise_norm")):
            return 2
        return 1 if name.endswith(".bias") or "LayerNorm" in name or name == "temperature" else 0

    def step(self):
        """Takes one step with the gradients that are stored in the parameters."""
        import torch

        self.steps += 1
        (b1, b2), gradients = self.betas, [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.momentums, gradients, 1 - b1)
        torch._foreach_mul_(self.velocities, b2)
        torch._foreach_addcmul_(self.velocities, gradients, gradients, 1 - b2)
        # The bias correction c of v is moved from the tensor v to scalars:
        # sqrt(v / c) + eps = (sqrt(v) + eps sqrt(c)) / sqrt(c).
        c1, c2 = 1 - b1**self.steps, math.sqrt(1 - b2**self.steps)
        updates = torch._foreach_sqrt(self.velocities)
        torch._foreach_add_(updates, self.epsilon * c2)
        updates = torch._foreach_div(self.momentums, updates)
        torch._foreach_mul_(updates, c2 / c1)
        torch._foreach_add_(
            updates[: self.num_decayed],
            self.parameters[: self.num_decayed],
            alpha=self.weight_decay,
        )
        weight_norms = torch._foreach_norm(self.parameters[: self.num_adapted])
        update_norms = torch._foreach_norm(updates[: self.num_adapted])
        for update, weight_norm, update_norm in zip(
            updates, weight_norms, update_norms, strict=False
        ):
            if weight_norm > 0 and update_norm > 0:
                update.mul_(weight_norm / update_norm)
        torch._foreach_add_(self.parameters, updates, alpha=-self.learning_rate)
