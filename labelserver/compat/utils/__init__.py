"""Import paths of MONAI Label: ``monailabel.utils``."""
