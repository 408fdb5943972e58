"""Prints class, score, centre and size of the detected boxes, from the markers that the node publishes for RViz.

`listen.py 3` exits after three messages. Needs rclpy, like publish.py. If vision_msgs is installed,
`ros2 topic echo /lidar_centerpoint/output/detections` shows the same.
"""

import sys

import rclpy
from visualization_msgs.msg import Marker, MarkerArray


def main():
    left = [int(sys.argv[1]) if len(sys.argv) > 1 else -1]
    rclpy.init()
    node = rclpy.create_node("listener")

    def show(array):
        cubes = [marker for marker in array.markers if marker.type == Marker.CUBE and marker.action == Marker.ADD]
        texts = [marker.text for marker in array.markers if marker.type == Marker.TEXT_VIEW_FACING]
        print(f"{len(cubes)} boxes")
        for cube, text in zip(cubes, texts):
            at, size = cube.pose.position, cube.scale
            print(
                f"  {text:16} at {at.x:7.2f} {at.y:7.2f} {at.z:6.2f} m, {size.x:.2f} x {size.y:.2f} x {size.z:.2f} m"
            )
        left[0] -= 1

    node.create_subscription(MarkerArray, "/lidar_centerpoint/output/markers", show, 10)
    try:
        while left[0] != 0:
            rclpy.spin_once(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
