"""The demonstration: node and player as processes, goals, images; a fly-through of a bag."""
