"""Import paths of MONAI Label: ``monailabel.scribbles``."""
