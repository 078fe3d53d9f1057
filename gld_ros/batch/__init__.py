"""Batches: which items there are, which are done, who runs them, and a table of what came of it.

An item is a bag to run or a scene to evaluate. What is made of one is the caller's
(`work.BatchWork`), how it is told is its `kind.BatchKind`.
"""
