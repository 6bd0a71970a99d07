"""Pictures for TensorBoard."""

from monai.handlers import TensorBoardImageHandler

from labelserver.tasks.clicks import TensorBoard2DImageHandler

__all__ = ["TensorBoard2DImageHandler", "TensorBoardImageHandler"]
