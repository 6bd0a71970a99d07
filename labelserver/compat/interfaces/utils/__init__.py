"""Import paths of MONAI Label: ``monailabel.interfaces.utils``."""
