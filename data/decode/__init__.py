"""Bytes of videos and images to frames, in a process that can be killed."""
