"""Textured meshes as scenes: a site's scan or a simulator's world, seen by a robot's camera.

generate.py is the entry point; load.py reads files and explains what is wrong with them.
"""
