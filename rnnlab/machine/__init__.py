"""The machine: its devices and processes, its disk and caches, and where numbers come from.

This wing is the lowest one, so every other wing may import it.
"""
