"""Runs training jobs on the device, one leased quantum at a time."""
