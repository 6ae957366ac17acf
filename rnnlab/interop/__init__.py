"""Weights to and from other libraries, as plain arrays; none of these libraries is imported."""
