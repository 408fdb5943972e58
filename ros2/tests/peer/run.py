"""Scenarios for the tests of `cp-ros2`. Writes what the peer observed as JSON, which the tests check.

    unshare -n PYTHON ros2/tests/peer/run.py stream|sweeps|unwatched|single --node cp-ros2 --out FOLDER

stream: 200 clouds of 100 k points at 10 Hz in four forms, plus 10 malformed ones.
sweeps: single clouds preceded by transforms, for a model with two sweeps.
unwatched: clouds without a subscriber for boxes, then clouds with one.
single: four clouds, each sent once the boxes of the one before are there.
The first two also write the points to FOLDER as x y z intensity, for the library to process.
"""

import argparse
import json
import math
import os
import signal
import sys
import time

import peer

SECOND = 1_000_000_000


def ns(stamp):
    return stamp.sec * SECOND + stamp.nanosec


def vision_boxes(array):
    """Class, score, centre, size and rotation of each detection."""
    boxes = []
    for detection in array.detections:
        (result,), box = detection.results, detection.bbox
        center, turn = box.center.position, box.center.orientation
        assert result.pose.pose == box.center and detection.header == array.header
        boxes.append(
            {
                "class": result.hypothesis.class_id,
                "score": result.hypothesis.score,
                "center": [center.x, center.y, center.z],
                "size": [box.size.x, box.size.y, box.size.z],
                "rotation": [turn.x, turn.y, turn.z, turn.w],
            }
        )
    return boxes


def autoware_boxes(array):
    """The same for Autoware's objects, with their additional fields."""
    boxes = []
    for item in array.objects:
        pose = item.kinematics.pose_with_covariance.pose
        center, turn = pose.position, pose.orientation
        size, linear = item.shape.dimensions, item.kinematics.twist_with_covariance.twist.linear
        boxes.append(
            {
                "label": item.classification[0].label,
                "score": item.existence_probability,
                "center": [center.x, center.y, center.z],
                "size": [size.x, size.y, size.z],
                "rotation": [turn.x, turn.y, turn.z, turn.w],
                "has_twist": item.kinematics.has_twist,
                "twist": [linear.x, linear.y],
                "availability": item.kinematics.orientation_availability,
                "shape": item.shape.type,
            }
        )
    return boxes


def statuses(arrays):
    """Diagnostics as plain data."""
    return [
        {
            "stamp": ns(array.header.stamp),
            "level": status.level[0],
            "name": status.name,
            "message": status.message,
            "hardware_id": status.hardware_id,
            "values": {value.key: value.value for value in status.values},
        }
        for array in arrays
        for status in array.status
    ]


def malformed(good):
    """Clouds that cannot be read, each for a different reason."""
    broken = []
    for number in range(5):
        message = peer.cloud(good, "xyzi")
        if number == 0:
            message.fields = message.fields[:2]  # no z
        elif number == 1:
            message.data = message.data[:-1]
        elif number == 2:
            message.width = 4_000_000_000
        elif number == 3:
            message.point_step = 0
        else:
            message.fields[0].offset = 4_000_000_000
        broken.append(message)
    return broken


def start(args, *ros_args):
    command = [args.node, "--engine", args.engine, "--device", args.device]
    command += ["--intensity-scale", str(1 / 255), "--ros-args"]
    command += ["-r", "~/input/pointcloud:=/points", *ros_args]
    command += ["-p", "qos_overrides./points.subscription.reliability:=reliable"]
    command += ["-p", f"qos_overrides./points.subscription.depth:={peer.DEPTH}"]
    return peer.NodeProcess(command, os.path.join(args.out, "node.log"))


def settle(other, node):
    """Waits until the node has subscribed to the clouds and discovered the subscribers of its topics."""
    other.wait("the node's subscription", lambda: other.clouds.get_subscription_count() > 0)
    other.spin(time.monotonic() + 3.0)
    assert node.process.poll() is None, "the node has exited"


def stream(args):
    import definitions
    from diagnostic_msgs.msg import DiagnosticArray
    from visualization_msgs.msg import MarkerArray

    node = start(args, "-p", "densification_params.num_past_frames:=0")
    rows = peer.frames(args.frames, 16, args.points)
    for number, points in enumerate(rows):
        points.astype("<f4").tofile(os.path.join(args.out, f"{number:06}.bin"))
    forms = list(peer.FORMS)
    messages = [peer.cloud(points, forms[number % len(forms)]) for number, points in enumerate(rows)]
    broken = malformed(rows[0][:1000])

    other = peer.Peer()
    detections = other.reader(definitions.Detection3DArray, peer.NODE + "/output/detections")
    debug = {
        name: other.reader(definitions.Float64Stamped, f"{peer.NODE}/debug/{name}_ms")
        for name in ("processing_time", "cyclic_time", "pipeline_latency")
    }
    markers = other.subscribe(MarkerArray, peer.NODE + "/output/markers")
    diagnostics = other.subscribe(DiagnosticArray, "/diagnostics")
    settle(other, node)

    sent, malformed_sent, found = [], 0, []
    begin = time.monotonic()
    for number in range(args.clouds):
        frame = (number + number // 16) % 16
        stamp = other.node.get_clock().now()
        message = messages[frame]
        message.header.frame_id = "lidar"
        message.header.stamp = stamp.to_msg()
        other.clouds.publish(message)
        sent.append({"stamp": stamp.nanoseconds, "frame": frame, "form": forms[frame % len(forms)]})
        if number % 20 == 10:
            other.spin(begin + (number + 0.5) / args.hz)
            message = broken[number // 20 % len(broken)]
            message.header.stamp = other.node.get_clock().now().to_msg()
            other.clouds.publish(message)
            malformed_sent += 1
        other.spin(begin + (number + 1) / args.hz)
        found += detections.take(N=100)
    other.spin(time.monotonic() + 2.0)
    found += detections.take(N=1000)
    numbers = {name: [sample.data for sample in reader.take(N=10000)] for name, reader in debug.items()}
    status, log = node.end(signal.SIGINT)
    return {
        "sent": sent,
        "malformed": malformed_sent,
        "detections": [
            {"stamp": ns(d.header.stamp), "frame_id": d.header.frame_id, "boxes": vision_boxes(d)} for d in found
        ],
        "markers": [
            {
                "stamp": ns(array.markers[0].header.stamp),
                "first": array.markers[0].action,
                "cubes": sum(marker.type == 1 for marker in array.markers[1:]),
                "texts": sum(marker.type == 9 for marker in array.markers[1:]),
            }
            for array in markers
        ],
        "diagnostics": statuses(diagnostics),
        "debug": numbers,
        "counts": peer.counts(log),
        "status": status,
        "log": log,
    }


def sweeps(args):
    """The vehicle drives along a bend; the scanner is mounted 1 m ahead of its origin and 2 m high."""
    import definitions as d

    node = start(
        args,
        *("-p", "output:=[autoware, vision]", "-p", "densification_params.world_frame_id:=odom"),
        *("-p", "model_params.has_twist:=true", "-r", "__node:=front", "-r", "__ns:=/lidar"),
    )
    rows = peer.frames(args.frames, 6, args.points)
    for number, points in enumerate(rows):
        points.astype("<f4").tofile(os.path.join(args.out, f"{number:06}.bin"))
    other = peer.Peer()
    detections = other.reader(d.Detection3DArray, "/lidar/front/output/detections")
    objects = other.reader(d.DetectedObjects, "/lidar/front/output/objects")
    tf = other.writer(d.TFMessage, "/tf")
    tf_static = other.writer(d.TFMessage, "/tf_static", latched=True)
    mount = d.TransformStamped(
        d.Header(frame_id="base_link"), "lidar", d.Transform(d.Vector3(1.0, 0.0, 2.0), d.Quaternion())
    )
    tf_static.write(d.TFMessage([mount]))
    settle(other, node)

    def send_pose(stamp, x, yaw):
        header = d.Header(d.Time(stamp // SECOND, stamp % SECOND), "odom")
        turn = d.Quaternion(0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        moved = d.Transform(d.Vector3(x, 0.5 * x, 0.0), turn)
        tf.write(d.TFMessage([d.TransformStamped(header, "base_link", moved)]))

    begin = other.node.get_clock().now().nanoseconds
    sent, found, found_objects = [], [], []
    for number, points in enumerate(rows):
        # The second to last frame has no transform, so neither it nor the next one can have a past sweep.
        known = number != len(rows) - 2
        stamp = begin + number * SECOND // 10
        x, yaw = 1.5 * number, 0.02 * number
        if known and number % 2 == 0:
            send_pose(stamp, x, yaw)
        elif known:  # Halfway between two samples.
            send_pose(stamp - SECOND // 50, x - 0.3, yaw - 0.01)
            send_pose(stamp + SECOND // 50, x + 0.3, yaw + 0.01)
        other.spin(time.monotonic() + 0.3)
        message = peer.cloud(points, "xyzi")
        message.header.frame_id = "lidar"
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, SECOND)
        other.clouds.publish(message)
        sent.append({"stamp": stamp, "frame": number, "pose": [x, 0.5 * x, yaw] if known else None})

        def arrived():
            found.extend(detections.take(N=10))
            found_objects.extend(objects.take(N=10))
            return len(found) == number + 1 and len(found_objects) == number + 1

        other.wait(f"the boxes of cloud {number}", arrived)
    status, log = node.end(signal.SIGTERM)
    return {
        "sent": sent,
        "detections": [{"stamp": ns(a.header.stamp), "boxes": vision_boxes(a)} for a in found],
        "objects": [{"stamp": ns(a.header.stamp), "boxes": autoware_boxes(a)} for a in found_objects],
        "counts": peer.counts(log),
        "status": status,
        "log": log,
    }


def unwatched(args):
    import definitions

    node = start(args, "-p", "densification_params.num_past_frames:=0")
    other = peer.Peer()
    settle(other, node)
    (points,) = peer.frames(args.frames, 1, args.points)
    message = peer.cloud(points, "xyzi")

    def send():
        for _ in range(5):
            message.header.stamp = other.node.get_clock().now().to_msg()
            other.clouds.publish(message)
            other.spin(time.monotonic() + 0.3)

    send()
    detections = other.reader(definitions.Detection3DArray, peer.NODE + "/output/detections")
    settle(other, node)
    send()
    found = detections.take(N=100)
    status, log = node.end(signal.SIGINT)
    return {"detections": len(found), "counts": peer.counts(log), "status": status, "log": log}


def single(args):
    import definitions

    node = start(args, "-p", "densification_params.num_past_frames:=0")
    other = peer.Peer()
    detections = other.reader(definitions.Detection3DArray, peer.NODE + "/output/detections")
    settle(other, node)
    found = []
    for number, points in enumerate(peer.frames(args.frames, 4, args.points)):
        message = peer.cloud(points, "xyzi")
        message.header.stamp = other.node.get_clock().now().to_msg()
        other.clouds.publish(message)

        def arrived():
            found.extend(detections.take(N=10))
            return len(found) > number

        other.wait(f"the boxes of cloud {number}", arrived)
    status, log = node.end(signal.SIGINT)
    boxes = [vision_boxes(array) for array in found]
    return {"detections": boxes, "counts": peer.counts(log), "status": status, "log": log}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stream", "sweeps", "unwatched", "single"])
    parser.add_argument("--node", required=True)
    parser.add_argument("--engine", default="engines/demo/int8.plan")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", default="calib/demo/frames")
    parser.add_argument("--out", required=True)
    parser.add_argument("--clouds", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--hz", type=float, default=10.0)
    args = parser.parse_args()
    peer.loopback()
    seen = {"stream": stream, "sweeps": sweeps, "unwatched": unwatched, "single": single}[args.what](args)
    with open(os.path.join(args.out, "seen.json"), "w") as file:
        json.dump(seen, file)


if __name__ == "__main__":
    sys.exit(main())
