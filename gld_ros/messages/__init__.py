"""ROS messages as arrays and numbers: images, intrinsics, stamps, transforms; needs no ROS.

Messages are duck-typed, so those of rclpy and those read from a bag go the same way.
"""
