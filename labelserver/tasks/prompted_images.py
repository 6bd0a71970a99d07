"""The image of a session and what a task made of it: once for all sessions and persons, in the one budget.

Decoded voxels and prepared values are entries of `prepared_images.shared`, named by the file's content, so that a
changed file is another image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from labelserver.domain.errors import ImageNotFound
from labelserver.imaging.volumes import read_grid, read_volume
from labelserver.tasks.prepared_images import content_of, shared
from labelserver.tasks.prompting import PromptedImage, PromptTask

_NO_VOXELS = np.zeros((0, 0, 0), dtype=np.uint8)


def image_of(path: str, *, voxels: bool = True) -> PromptedImage:
    """The image at `path`, decoded if nobody has asked for it lately.

    Raises:
        ImageNotFound: the file is not there. UnreadableFile, UnsupportedFormat: it cannot be read.
    """
    content = content_of(path)
    if content is None or not Path(path).is_file():
        raise ImageNotFound(f"The file of the image {Path(path).name!r} is not there any more.")
    if not voxels:
        return PromptedImage(_NO_VOXELS, read_grid(Path(path)), path)
    return shared().get_or_make(("prompted image", content), lambda: _decoded(path))


def prepared_of(task: PromptTask, path: str) -> Any:
    """What `task` prepares of the image at `path`. Raises as `image_of`, and whatever the task raises."""
    if task.reads_path:
        return task.prepare(image_of(path, voxels=False))
    image = image_of(path)
    if type(task).prepare is PromptTask.prepare:
        return image
    weights = task.get_path()
    key = ("prompted", type(task).__qualname__, id(task), content_of(path), content_of(weights) if weights else None)
    return shared().get_or_make(key, lambda: task.prepare(image))


def _decoded(path: str) -> PromptedImage:
    volume = read_volume(Path(path))
    voxels = volume.voxels
    voxels.flags.writeable = False
    return PromptedImage(voxels, volume.grid, path)
