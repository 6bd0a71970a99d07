"""Inference with MONAI bundles, at its old place."""

from labelserver.tasks.bundle_infer import BundleConstants, BundleInferTask

__all__ = ["BundleConstants", "BundleInferTask"]
