"""Running transforms by hand."""

from labelserver.tasks.transform_runs import run_transforms

__all__ = ["run_transforms"]
