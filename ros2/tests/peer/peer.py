"""The node's peer: a real rclpy node for clouds, markers and diagnostics, CycloneDDS for the rest.

All traffic stays on this machine: call `loopback` first, in a network namespace of its own (`unshare`).
"""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import time

import numpy as np

NODE = "/lidar_centerpoint"

# Queue length for unacknowledged clouds: three seconds on a busy machine.
DEPTH = 30


def loopback():
    """Brings up the loopback interface with multicast, and restricts ROS to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0x1 | 0x8 | 0x40 | 0x1000)  # UP, LOOPBACK, RUNNING, MULTICAST
        fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["CYCLONEDDS_URI"] = "<General><Interfaces><NetworkInterface name='lo'/></Interfaces></General>"


class NodeProcess:
    """A running `cp-ros2` that logs to a file."""

    def __init__(self, command, log):
        self.log = open(log, "w+")
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log)

    def rss(self):
        """Resident memory and its peak in kB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmRSS"].split()[0]), int(lines["VmHWM"].split()[0])

    def end(self, how=signal.SIGINT):
        """Stops the node; returns its exit status and log."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(timeout=60)
        self.log.seek(0)
        return status, self.log.read()


def counts(log):
    """Parses the counts in the node's last line: clouds: 200 received, ..."""
    line = [line for line in log.splitlines() if line.startswith("cp-ros2: clouds:")][-1]
    pairs = (part.split() for part in line.split("clouds:")[1].split(","))
    return {name: int(number) for number, name in pairs}


class Peer:
    """An rclpy node and a CycloneDDS participant."""

    def __init__(self, topic="/points"):
        import rclpy
        from cyclonedds.domain import DomainParticipant
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import PointCloud2

        self.rclpy = rclpy
        rclpy.init()
        self.node = rclpy.create_node("peer")
        qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self.clouds = self.node.create_publisher(PointCloud2, topic, qos)
        self.participant = DomainParticipant(0)

    def subscribe(self, kind, topic):
        """Subscribes with rclpy; returns the list that receives the messages."""
        messages = []
        self.node.create_subscription(kind, topic, messages.append, 1000)
        return messages

    def reader(self, kind, topic):
        """A CycloneDDS reader of a ROS topic."""
        from cyclonedds.core import Policy, Qos
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic
        from cyclonedds.util import duration

        qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepAll)
        return DataReader(self.participant, Topic(self.participant, "rt" + topic, kind, qos=qos), qos=qos)

    def writer(self, kind, topic, latched=False):
        """A CycloneDDS writer of a ROS topic."""
        from cyclonedds.core import Policy, Qos
        from cyclonedds.pub import DataWriter
        from cyclonedds.topic import Topic
        from cyclonedds.util import duration

        durability = Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile
        qos = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(100), durability)
        return DataWriter(self.participant, Topic(self.participant, "rt" + topic, kind, qos=qos), qos=qos)

    def spin(self, until):
        """Processes messages until a time of `time.monotonic`."""
        while (left := until - time.monotonic()) > 0:
            self.rclpy.spin_once(self.node, timeout_sec=left)

    def wait(self, what, ready, seconds=30.0):
        """Processes messages until `ready` returns true."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds} s for {what}")
            self.spin(time.monotonic() + 0.05)


def cloud(points, form):
    """A PointCloud2 of rows x y z intensity, with an integer intensity from 0 to 255, in one of FORMS."""
    from sensor_msgs.msg import PointCloud2, PointField

    dtype, big = FORMS[form]
    rows = np.zeros(len(points), dtype)
    for column, name in enumerate(("x", "y", "z", "intensity")):
        rows[name] = points[:, column]
    message = PointCloud2()
    message.is_bigendian = big
    message.point_step = rows.dtype.itemsize
    kinds = {"u1": PointField.UINT8, "u2": PointField.UINT16, "f4": PointField.FLOAT32, "f8": PointField.FLOAT64}
    for name in rows.dtype.names:
        kind, offset = rows.dtype.fields[name][:2]
        message.fields.append(PointField(name=name, offset=offset, datatype=kinds[kind.str[1:]], count=1))
    if form == "rows":  # Four rows with padding.
        message.height, message.width = 4, len(rows) // 4
        parts = [part.tobytes() + b"\xee" * 12 for part in np.split(rows, 4)]
        message.data = b"".join(parts)
        message.row_step = len(parts[0])
    else:
        message.height, message.width = 1, len(rows)
        message.data = rows.tobytes()
        message.row_step = len(message.data)
    return message


def _odd(order, intensity):
    """Records with odd offsets and an odd step."""
    return np.dtype(
        {
            "names": ["intensity", "x", "y", "z"],
            "formats": [intensity, order + "f4", order + "f8", order + "f4"],
            "offsets": [1, 3, 7, 15],
            "itemsize": 23,
        }
    )


# By name: the type of a point, and whether it is big-endian.
FORMS = {
    "xyzi": (np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")]), False),
    "xyzirc": (
        np.dtype(
            [
                ("x", "<f4"),
                ("y", "<f4"),
                ("z", "<f4"),
                ("intensity", "u1"),
                ("return_type", "u1"),
                ("channel", "<u2"),
            ]
        ),
        False,
    ),
    "big": (_odd(">", ">u2"), True),
    "rows": (_odd("<", "u1"), False),
}


def frames(folder, count, points):
    """`count` clouds of `points` rows x y z intensity made from the demo frames, with intensity from 0 to 255."""
    files = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    clouds = [np.fromfile(file, "<f4").reshape(-1, 5)[:, :4] for file in files]
    made = []
    for number in range(count):
        both = np.concatenate([clouds[number % len(clouds)], clouds[(number + 1) % len(clouds)]])
        both = np.resize(both, (points, 4)).copy()
        both[:, 3] = np.rint(np.clip(both[:, 3], 0, 1) * 255)
        made.append(both)
    return made
