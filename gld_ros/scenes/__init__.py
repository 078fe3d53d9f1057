"""Scenes for training and evaluation: procedural rooms, recorded folders, bags, datasets."""
