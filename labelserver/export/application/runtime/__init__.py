"""What runs inside an exported application. This package is copied into it, so it imports nothing that stays behind.

It may import itself, and those modules of the server that `writing.SHARED` lists and that are copied beside it: the
very code by which the server places DICOM slices. Other than that: torch, MONAI, pydicom, highdicom, numpy.
"""
