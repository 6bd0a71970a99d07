"""Import paths of MONAI Label: ``monailabel.datastore``."""
