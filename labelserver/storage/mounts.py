"""Is a folder on this machine's disk or on somebody else's? Locks and change notices need to know."""

from __future__ import annotations

from pathlib import Path

#: File systems whose files other machines may change without telling our kernel.
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "virtiofs"),
        *("ceph", "glusterfs", "lustre", "beegfs", "fuse.sshfs", "fuse.glusterfs"),
    )
)


def is_network_folder(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """True if the folder's mount is of a network type; False where the kernel does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        resolved = folder.resolve()
    except OSError:
        return False
    best, kind = 0, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind in _NETWORK
