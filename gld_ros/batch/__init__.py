"""Many bags: which there are, which are done, who runs them, and a table of what came of it.

What is made of one bag is the caller's (`work.BagWork`).
"""
