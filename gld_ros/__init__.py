"""gld_ros: imagined views, depth and safe point clouds for robots.

Kept light on purpose, because importing a message (``gld_ros.msg``) runs this file. The library's
front door is :mod:`gld_ros.pipeline`.
"""

from pkgutil import extend_path

# The generated messages live in the install space, the sources may be found first: join both.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
