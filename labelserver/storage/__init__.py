"""Bytes reach the disk whole: atomic replacement, append-only files, locks, checksums, process identities.

Operating-system calls live here and nowhere else.
"""
