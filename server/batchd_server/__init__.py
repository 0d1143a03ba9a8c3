"""batchd's daemon."""
