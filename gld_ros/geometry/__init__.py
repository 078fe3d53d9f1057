"""Cameras, rays and rigid motion: pure functions on tensors, no networks, no ROS.

Axes, units, pixel centres and the meaning of `T_a_b` are stated once, in docs/conventions.md.
"""
