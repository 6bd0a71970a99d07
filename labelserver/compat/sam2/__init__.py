"""Import paths of MONAI Label: ``monailabel.sam2``."""
