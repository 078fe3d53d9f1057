"""The ROS layer: adapters between messages and arrays, TF, bags, and the node.

It imports the library and is never imported by it. Modules that need a running ROS import rclpy;
images, clouds, the TF buffer and the bag files work on plain message objects without it.
"""
