"""redaes on a Ray cluster: the runner `ray`, for the data engine, `redaes score` and `redaes evaluate`."""

from redaes_ray.runner import RayRunner

__all__ = ["RayRunner"]
