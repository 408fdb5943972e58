"""Publishes the demo frames as point clouds on /points, ten per second, like a lidar.

Needs rclpy: a sourced ROS 2, or `pip install -r ros2/tests/peer/requirements.txt` with Python 3.11.
"""

import itertools
import pathlib
import sys

import rclpy
from sensor_msgs.msg import PointCloud2, PointField

STEP = 20  # x y z intensity t, little-endian floats


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "calib/demo/frames")
    frames = [path.read_bytes() for path in sorted(folder.glob("*.bin"))]
    rclpy.init()
    node = rclpy.create_node("demo_scanner")
    publisher = node.create_publisher(PointCloud2, "/points", 5)
    names = ("x", "y", "z", "intensity", "t")
    fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate(names)
    ]
    turn = itertools.cycle(frames)

    def publish():
        data = next(turn)
        cloud = PointCloud2(height=1, width=len(data) // STEP, fields=fields, point_step=STEP, is_dense=True)
        cloud.header.stamp = node.get_clock().now().to_msg()
        cloud.header.frame_id = "lidar"
        cloud.row_step = len(data)
        cloud.data = data
        publisher.publish(cloud)

    node.create_timer(0.1, publish)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
