"""What the labeling page asks before everything else."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PageInfo(BaseModel):
    """Where the page is, and who asks."""

    model_config = ConfigDict(extra="ignore")

    version: str
    project: str
    person: str = Field(description="What the server takes the caller for.")
    anonymous: bool = Field(description="True: the caller gave no name.")
    peer_prefix: str = Field(description="Stands before the routes of the MONAI Label API; usually empty.")
