"""Cascade: text-to-video diffusion cascades, trained stage by stage and run as one."""
