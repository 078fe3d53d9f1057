"""Furnished rooms: procedural rooms with real pieces of furniture.

generate.py is the entry point. The pieces are the user's: a folder of meshes with a furniture.csv.
"""
