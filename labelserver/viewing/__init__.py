"""Images and labels for viewers that know no file format: everything on one grid, in one order of voxels."""
