"""Whether this machine computes correctly: library functions against stored reference numbers.

`run` finds out what kind of fixture folder it is given and yields one row per stored quantity.
`da3` and `vggt` cover folders made with modules of those families. `fixtures` holds a small set of
each. The rows are the golden tests of the repository (test/selftest/test_golden.py).
"""
