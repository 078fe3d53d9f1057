"""Whole bundles by one command: stores, training stages, evaluations and a model card in a row."""
