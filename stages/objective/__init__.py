"""Objectives: what a stage is trained to do with a batch, one file each."""
