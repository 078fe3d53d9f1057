"""ROS 2 bags without ROS: reading, writing, and which topics belong together."""
