"""Textured meshes as scenes: a site's scan or a simulator's world, seen by a robot's camera.

generate.py is the front door; load.py reads files and explains what is wrong with them.
"""
