"""Depth Anything 3, any-view models: backbone, dual DPT head, cameras.

`model.py` is the entry point; `config.py` has the published sizes.
"""
