"""Multi-view diffusion in the feature space of a geometric foundation model."""
