"""Data sets in and out of a store: layouts that other tools use, and snapshots that can be told apart by a hash."""
