"""Parts of the radiology app."""
