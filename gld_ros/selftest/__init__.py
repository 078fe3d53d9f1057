"""Does this machine compute what it should? Library functions against stored reference numbers.

`run` finds out what kind of fixture folder it is given and yields one row per stored quantity.
`da3` and `vggt` cover folders made with modules of those families. `fixtures` is the small default
set.
"""
