"""Import paths of MONAI Label: ``monailabel.transform``."""
