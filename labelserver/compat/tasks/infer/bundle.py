"""Inference with MONAI bundles."""

from labelserver.tasks.bundle_infer import BundleConstants, BundleInferTask

__all__ = ["BundleConstants", "BundleInferTask"]
