"""Datasets: taking them in, checking that they are what they say, opening them. Nothing in them is ever executed."""
