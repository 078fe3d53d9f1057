"""The demonstration: node and player as processes, goals, pictures; a fly-through of a bag."""
