"""What posed images and depth cameras measure: depth of surfaces that were seen, never a guess.

No networks, no ROS. A pixel is either measured or NaN; `measure` is the entry point.
"""
