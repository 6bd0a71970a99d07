"""``monailabel.interfaces.tasks`` of the early releases."""

from labelserver.tasks.base import InferType, ScoringMethod, Strategy, TrainTask
from labelserver.tasks.batch_infer import BatchInferImageType, BatchInferTask
from labelserver.tasks.infer import BasicInferTask as InferTask

__all__ = ["BatchInferImageType", "BatchInferTask", "InferTask", "InferType", "ScoringMethod", "Strategy", "TrainTask"]
