"""Training MONAI bundles."""

from labelserver.tasks.bundle_train import BundleConstants, BundleTrainTask

__all__ = ["BundleConstants", "BundleTrainTask"]
