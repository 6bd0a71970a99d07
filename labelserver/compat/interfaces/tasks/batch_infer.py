"""Batch inference."""

from labelserver.tasks.batch_infer import BatchInferImageType, BatchInferTask

__all__ = ["BatchInferImageType", "BatchInferTask"]
