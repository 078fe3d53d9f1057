"""Depth Anything 3, any-view models: backbone, dual DPT head, cameras.

`model.py` is the front door; `config.py` has the published sizes.
"""
