"""Geometry backbones: posed or unposed views -> level features, depth, rays, cameras.

`interface.py` says what every backbone offers; `da3/` and `vggt/` are the two families.
"""
