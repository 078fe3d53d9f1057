"""Furnished rooms: procedural rooms that real pieces of furniture stand in.

generate.py is the entry point. The pieces are the user's: a folder of meshes with a furniture.csv.
"""
