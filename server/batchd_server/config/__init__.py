"""The configuration: what may be set, where it comes from, and the policies it becomes."""
