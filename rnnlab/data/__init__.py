"""Data: from their sources to arrays."""


class DataError(Exception):
  """Data are missing or damaged; the message says what, where, and what to do about it."""
