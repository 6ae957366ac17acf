"""Data: from where they lie to arrays of token ids."""


class DataError(Exception):
  """Data are missing or damaged; the message says what, where, and what to do about it."""
