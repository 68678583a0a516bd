"""Differentiable search: DARTS, ProxylessNAS, FBNet, and REINFORCE, beside the truth."""
