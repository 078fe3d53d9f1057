"""Worlds to learn from and to be judged on: procedural rooms, recorded folders, bags, datasets."""
