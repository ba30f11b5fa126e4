"""Reads record sets and turns them into batches."""
