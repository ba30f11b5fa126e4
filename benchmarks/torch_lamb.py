"""LAMB in PyTorch, in as few passes over the weights as `torch._foreach_*` allows."""

import math


class Lamb:
    """LAMB on lists of tensors (`torch._foreach_*`), with the options of configs/etcl.py.

    Args:
        named: pairs of (name, parameter).
        learning_rate, decay, betas, epsilon: as published.
    """

    def __init__(self, named, learning_rate=1e-4, decay=1e-5, betas=(0.9, 0.999), epsilon=1e-6):
        import torch

        self.rate, self.decay, self.betas, self.epsilon = learning_rate, decay, betas, epsilon
        self.steps = 0
        named = sorted(named, key=lambda pair: self._group(pair[0]))
        groups = [self._group(name) for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.decayed, self.adapted = groups.count(0), len(groups) - groups.count(2)

    @staticmethod
    def _group(name):
        """0: decay and adaptation; 1: adaptation alone; 2: neither."""
        if any(part in name for part in ("batchnorm", "_bn", "depthwise_norm")):
            return 2
        return 1 if name.endswith(".bias") or "LayerNorm" in name or name == "temperature" else 0

    def step(self):
        """One step with the gradients that the parameters hold."""
        import torch

        self.steps += 1
        (b1, b2), gradients = self.betas, [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.first, gradients, 1 - b1)
        torch._foreach_mul_(self.second, b2)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - b2)
        # Bias corrections as scalars: sqrt(v / c) + eps = (sqrt(v) + eps sqrt(c)) / sqrt(c).
        c1, c2 = 1 - b1**self.steps, math.sqrt(1 - b2**self.steps)
        updates = torch._foreach_sqrt(self.second)
        torch._foreach_add_(updates, self.epsilon * c2)
        updates = torch._foreach_div(self.first, updates)
        torch._foreach_mul_(updates, c2 / c1)
        torch._foreach_add_(
            updates[: self.decayed], self.parameters[: self.decayed], alpha=self.decay
        )
        weight_norms = torch._foreach_norm(self.parameters[: self.adapted])
        update_norms = torch._foreach_norm(updates[: self.adapted])
        for update, weight_norm, update_norm in zip(
            updates, weight_norms, update_norms, strict=False
        ):
            if weight_norm > 0 and update_norm > 0:
                update.mul_(weight_norm / update_norm)
        torch._foreach_add_(self.parameters, updates, alpha=-self.rate)
