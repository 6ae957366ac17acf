"""A run: its config, what does it, its checkpoints, and the files of its folder."""
