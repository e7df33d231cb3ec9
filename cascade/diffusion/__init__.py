"""Diffusion written in log-SNR: schedules, targets, losses, guidance and samplers."""
