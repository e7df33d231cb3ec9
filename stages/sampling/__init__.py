"""Sampling a stage: from noise to videos, whole or in windows and tiles that equal the whole."""
