"""Libraries of a ROS distribution behind our interfaces, each with what serves where it is missing.

ROS 2 from PyPI has none of them. A distribution's own is preferred where it gives the right answer.
"""
