"""Photos to 3D: depth, cameras and coloured points of images alone, with or without poses."""
