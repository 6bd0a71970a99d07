"""The same training as `tests/apps/bench_app`, as a plain script: what the server's trainings are measured against.

    python bare_training.py STUDIES EPOCHS

Prints Unix seconds of the first optimizer step and of the end of each epoch, as JSON. It imports the packages that a
job imports, so that the time until the first step differs by what the server adds alone.
"""

import json
import sys
import time
from pathlib import Path

# isort: off
import filelock, httpx, ignite.engine, nibabel, nrrd, pydantic, pydicom, safetensors.torch, scipy.ndimage  # noqa: E401, F401
import skimage.measure, skimage.segmentation, sklearn.mixture, torch  # noqa: E401, F401
import monai.engines, monai.handlers, monai.inferers, monai.metrics  # noqa: E401, F401

# isort: on
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import EnsureChannelFirstd, LoadImaged, RandFlipd, ScaleIntensityd


def main() -> None:
    studies, epochs = Path(sys.argv[1]), int(sys.argv[2])
    keys = ["image", "label"]
    final = studies / "labels" / "final"
    cases = [{"image": str(path), "label": str(final / path.name)} for path in sorted(studies.glob("*.nii.gz"))]
    transforms = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        ScaleIntensityd("image"),
        RandFlipd(keys, prob=0.5, spatial_axis=0),
    ]
    dataset = CacheDataset(cases, transforms, num_workers=None, progress=False)
    loader = DataLoader(dataset, batch_size=1, shuffle=True, num_workers=0)
    torch.manual_seed(1)
    network = UNet(3, 1, 2, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    first_step, epoch_ends = 0.0, []
    network.train()
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_function(network(batch["image"]), batch["label"]).backward()
            optimizer.step()
            first_step = first_step or time.time()
        epoch_ends.append(time.time())
    print(json.dumps({"first_step": first_step, "epoch_ends": epoch_ends}))


if __name__ == "__main__":
    main()
