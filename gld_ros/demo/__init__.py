"""The demonstration: node and player as processes, goals at withheld frames, pictures."""
