"""The node's parameters: one table (`table`), its checks (`validation`), its snapshot (`snapshot`).

Only `declare` knows rclpy; everything else imports without ROS, for `gld-ros params` and the docs.
"""
