"""Import paths of MONAI Label: ``monailabel.tasks.train``."""
