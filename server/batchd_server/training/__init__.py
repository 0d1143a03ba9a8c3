"""Training jobs and their data: what they are and where they are kept. Nothing here runs them, or speaks HTTP."""
