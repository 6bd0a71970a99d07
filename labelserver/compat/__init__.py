"""Import paths of MONAI Label, so that its apps load unmodified: re-exports and small adapters, no logic of their own.

``import labelserver.compat as monailabel`` ports an app by search and replace; while an app folder is loaded and no
package ``monailabel`` is installed, not even that is needed. What differs stands in docs/compatibility.md.
"""

from labelserver import __version__

__all__ = ["__version__"]
