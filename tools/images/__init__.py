"""Images of the platform, and of what stands in for published ones in the cluster that the tests start.

``python -m tools.images`` builds what is missing, with buildah, as root and without a daemon. From Python:
``ensure_layout("platform")`` is a folder with the image, and ``write_archive`` makes an archive of it without what the
receiver has already. ``python -m tools.images.publish`` builds the platform's own for users, pushes and pins them.
"""

from tools.images.archive import write_archive
from tools.images.build import ensure_layout
from tools.images.catalog import IMAGES

__all__ = ["IMAGES", "ensure_layout", "write_archive"]
