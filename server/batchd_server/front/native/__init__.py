"""batchd's own routes for operators."""
