"""Networks: the base diffusion transformer and the local super-resolution network."""
