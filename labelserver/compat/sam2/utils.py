"""Whether Segment Anything 2 can be used."""


def is_sam2_module_available() -> bool:
    """False: apps then leave their SAM2 tasks out."""
    return False
