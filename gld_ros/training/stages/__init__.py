"""Training jobs, one file each: what is learned, from which batch, with which loss."""
