from .segmentation import Segmentation
