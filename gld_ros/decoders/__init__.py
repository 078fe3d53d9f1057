"""Decoders from generated features to images."""
