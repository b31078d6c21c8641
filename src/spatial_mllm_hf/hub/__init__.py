"""Checkpoint folders as they stand on the Hub."""
