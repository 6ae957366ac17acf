"""What people read: help, progress, and words for errors.

Only `machine` is below this wing, so every other wing may import it.
"""
