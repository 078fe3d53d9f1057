"""Checks of fixture folders made with VGGT modules: each file carries its own weights and sizes."""
