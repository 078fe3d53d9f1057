"""What posed images and depth cameras measure: depth of surfaces that were seen, never a guess.

No networks, no ROS. A pixel is measured or it is NaN; `measure` is the front door.
"""
