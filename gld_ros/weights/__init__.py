"""Weights on disk: bundles, the official checkpoint layout, and downloads.

`bundle` owns the folder format that everything else loads from, `official` turns the published
files into it, `catalog` and `hub` know what is published and fetch it on request.
"""
