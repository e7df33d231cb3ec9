"""Rules that every reader of videos and images follows; nothing here imports torch.

Folders, tars, training and prompts read by the same rules: which files are read, what is damage,
how a frame is turned upright, and what is seen through transparent pixels.
"""
