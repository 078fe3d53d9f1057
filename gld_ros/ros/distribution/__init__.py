"""Libraries of a ROS distribution behind gld_ros's interfaces, each with a replacement.

ROS 2 from PyPI has none of them. A distribution's own is preferred where it gives the right answer.
"""
