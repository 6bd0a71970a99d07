"""Metrics by region."""

from labelserver.tasks.train_metrics import from_engine_idx, region_wise_metrics, region_wise_rmse

__all__ = ["from_engine_idx", "region_wise_metrics", "region_wise_rmse"]
