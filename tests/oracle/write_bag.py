"""Writes the frames of a folder as ROS 2 bags with rosbags and mcap from PyPI, like other recorders.

    write_bag.py FRAMES OUT

FRAMES contains .bin files of x, y, z, intensity, t as little-endian f32. Prints nothing and writes to OUT:

| bag | content |
|---|---|
| `plain/` | a folder with one uncompressed file: `/points` (PointXYZI as f32, padded to 32 bytes) |
| `zstd/` | the same with zstd chunks and another topic (`/chatter`) |
| `lz4.mcap` | the same, written by the mcap library with lz4 and chunks of 64 KiB |
| `loose.mcap` | the same without chunks |
| `layouts.mcap` | a topic for each layout: `/xyzirc`, `/doubles` (f64), `/big` (big-endian), `/rows` |
| `two/` | a folder with two files; by name, the later half comes first |
| `tf/` | `/points` with past sweeps, `/tf` and `/tf_static`: the vehicle drives along x of `map` |
| `message/` | individually compressed messages |
| `database/` | a sqlite3 bag |
| `expected/NAME/I.bin` | the points of frame I of topic NAME: x, y, z, intensity and, except for `xyzirc`, t |
| `expected/tf/I.json` | frame I of `tf/` as a list of sweeps, with poses from the closed formula of the drive |

Clouds have the stamp STAMP + i * 0.1 s; log times are 30 ms later.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

frames, out = (Path(a) for a in sys.argv[1:])
store = get_typestore(Stores.ROS2_JAZZY)
T = store.types
STAMP = 1_700_000_000_000_000_000
STEP = 100_000_000
LATE = 30_000_000
CLOUD, TF = "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage"
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}
F32, F64, U8, U16, U32 = 7, 8, 2, 4, 6

clouds = [
    np.fromfile(path, "<f4").reshape(-1, 5) for path in sorted(frames.glob("*.bin"))[:4]
]


def time(ns):
    return T["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)


def header(ns, frame_id):
    return T["std_msgs/msg/Header"](stamp=time(ns), frame_id=frame_id)


def cloud(ns, data, step, fields, width, height=1, row_step=None, big=False, frame_id="lidar"):
    """A serialised message with `data` (bytes); fields are (name, offset, type)."""
    field = T["sensor_msgs/msg/PointField"]
    message = T[CLOUD](
        header=header(ns, frame_id),
        height=height,
        width=width,
        fields=[field(name=n, offset=o, datatype=t, count=1) for n, o, t in fields],
        is_bigendian=big,
        point_step=step,
        row_step=row_step if row_step is not None else step * width,
        data=np.frombuffer(data, np.uint8),
        is_dense=True,
    )
    return bytes(store.serialize_cdr(message, CLOUD))


def packed(rows, dtype):
    """The bytes of a structured array; `dtype` selects columns of `rows` (x, y, z, intensity, t)."""
    dtype = np.dtype(dtype)
    points = np.zeros(len(rows), dtype)
    for index, name in enumerate(["x", "y", "z", "intensity", "t"]):
        if name in dtype.names:
            points[name] = rows[:, index]
    return points.tobytes()


def padded(ns, rows, frame_id="lidar"):
    """PCL's PointXYZI, with t in place of padding."""
    names, offsets = ["x", "y", "z", "intensity", "t"], [0, 4, 8, 16, 20]
    dtype = {"names": names, "formats": ["<f4"] * 5, "offsets": offsets, "itemsize": 32}
    fields = [(n, o, F32) for n, o in zip(names, offsets)]
    return cloud(ns, packed(rows, dtype), 32, fields, len(rows), frame_id=frame_id)


def xyzirc(ns, rows):
    """Autoware's PointXYZIRC, 16 bytes."""
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "u1"), ("return_type", "u1"), ("channel", "<u2")]
    fields = [("x", 0, F32), ("y", 4, F32), ("z", 8, F32), ("intensity", 12, U8), ("return_type", 13, U8), ("channel", 14, U16)]
    return cloud(ns, packed(rows, dtype), 16, fields, len(rows))


def doubles(ns, rows):
    dtype = [("t", "<f8"), ("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("intensity", "<f8")]
    fields = [(name, 8 * i, F64) for i, (name, _) in enumerate(dtype)]
    return cloud(ns, packed(rows, dtype), 40, fields, len(rows))


def big(ns, rows):
    dtype = [("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("intensity", ">f4"), ("t", ">f4")]
    fields = [(name, 4 * i, F32) for i, (name, _) in enumerate(dtype)]
    return cloud(ns, packed(rows, dtype), 20, fields, len(rows), big=True)


def rows_of(ns, rows):
    """Two rows with padding between them; drops the last point if the number is odd."""
    half = len(rows) // 2
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("t", "<f4")]
    fields = [(name, 4 * i, F32) for i, (name, _) in enumerate(dtype)]
    halves = [packed(rows[i * half : (i + 1) * half], dtype) for i in range(2)]
    data = b"".join(part + b"\xff" * 13 for part in halves)
    return cloud(ns, data, 20, fields, half, height=2, row_step=20 * half + 13)


def bag(path, messages, compression=None, plugin=StoragePlugin.MCAP):
    """A rosbag2 folder of (topic, type, log time, bytes)."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, kind, stamp, data in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], stamp, data)


def compressed(path, messages, mode):
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, stamp, data in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], stamp, data)


def library(path, messages, **options):
    """The same, written by the mcap library."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start("ros2", "write_bag.py")
        channels = {}
        for topic, kind, stamp, data in messages:
            if topic not in channels:
                text = store.generate_msgdef(kind, ros_version=2)[0].encode()
                schema = writer.register_schema(kind, "ros2msg", text)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], stamp, data, stamp)
        writer.finish()


def stamps(messages):
    """(i, stamp) of each frame."""
    return [(i, STAMP + i * STEP) for i in range(messages)]


def points(layout=padded, topic="/points"):
    return [(topic, CLOUD, ns + LATE, layout(ns, clouds[i])) for i, ns in stamps(len(clouds))]


def chatter():
    text = T["std_msgs/msg/String"](data="hello")
    data = bytes(store.serialize_cdr(text, "std_msgs/msg/String"))
    return [("/chatter", "std_msgs/msg/String", ns + 7, data) for _, ns in stamps(len(clouds))]


def in_time(messages):
    return sorted(messages, key=lambda message: message[2])


def transform(ns, parent, child, x, y=0.0, z=0.0, yaw=0.0):
    vector, quaternion = T["geometry_msgs/msg/Vector3"], T["geometry_msgs/msg/Quaternion"]
    return T["geometry_msgs/msg/TransformStamped"](
        header=header(ns, parent),
        child_frame_id=child,
        transform=T["geometry_msgs/msg/Transform"](
            translation=vector(x=x, y=y, z=z),
            rotation=quaternion(x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2))),
        ),
    )


def tf(topic, log_time, transforms):
    return (topic, TF, log_time, bytes(store.serialize_cdr(T[TF](transforms=transforms), TF)))


def pose(ns):
    """The vehicle in odom: x, y, yaw. It drives at 10 m/s along x, turning left."""
    seconds = (ns - STAMP) / 1e9
    return 1000.0 + 10.0 * seconds, 2.0, 0.3 * seconds


ODOM = (-5.0, 3.0, 0.5)
LIDAR = (1.0, 0.0, 1.8)


def driving():
    """A transform every 25 ms, never at the time of a cloud, recorded after the cloud of its time."""
    found = [tf("/tf_static", STAMP + STEP, [transform(STAMP + STEP, "base_link", "lidar", *LIDAR)])]
    for k in range(-4, 4 * len(clouds) + 4):
        ns = STAMP + k * STEP // 4 + 1_000_000
        x, y, yaw = pose(ns)
        odom_x, odom_y, odom_yaw = ODOM
        found.append(tf("/tf", ns + 60_000_000, [
            transform(ns, "odom", "base_link", x, y, 0.0, yaw),
            transform(ns, "map", "odom", odom_x, odom_y, 0.0, odom_yaw),
        ]))
    return found


def in_map(ns):
    """The pose of the lidar in the map, in the format of a list of sweeps."""
    odom_x, odom_y, odom_yaw = ODOM
    x, y, yaw = pose(ns)
    x, y = x + LIDAR[0] * np.cos(yaw), y + LIDAR[0] * np.sin(yaw)
    sin, cos = np.sin(odom_yaw), np.cos(odom_yaw)
    x, y = odom_x + cos * x - sin * y, odom_y + sin * x + cos * y
    half = (yaw + odom_yaw) / 2
    return {"translation": [x, y, LIDAR[2]], "rotation": [np.cos(half), 0.0, 0.0, np.sin(half)]}


def newest(rows):
    """The points of the newest of a frame's two sweeps."""
    return rows[rows[:, 4] == 0]


out.mkdir(parents=True, exist_ok=True)
bag(out / "plain", points())
compressed(out / "zstd", in_time(points() + chatter()), CompressionMode.STORAGE)
compressed(out / "message", points(), CompressionMode.MESSAGE)
bag(out / "database", points(), plugin=StoragePlugin.SQLITE3)
library(out / "lz4.mcap", in_time(points() + chatter()), compression=CompressionType.LZ4, chunk_size=64 << 10)
library(out / "loose.mcap", in_time(points() + chatter()), use_chunking=False)
layouts = points(xyzirc, "/xyzirc") + points(doubles, "/doubles") + points(big, "/big") + points(rows_of, "/rows")
library(out / "layouts.mcap", in_time(layouts), compression=CompressionType.ZSTD)

# The order of the file names is not the order of time.
halves = points()
bag(out / "b", halves[:2])
bag(out / "a", halves[2:])
(out / "two").mkdir()
shutil.move(out / "b" / "b.mcap", out / "two" / "drive_1.mcap")
shutil.move(out / "a" / "a.mcap", out / "two" / "drive_0.mcap")

alone = [("/points", CLOUD, ns + LATE, padded(ns, newest(clouds[i]))) for i, ns in stamps(len(clouds))]
compressed(out / "tf", in_time(alone + driving()), CompressionMode.STORAGE)

# The expected frames, as files.
expected = out / "expected"
for name in ["points", "doubles", "big", "rows", "xyzirc", "tf"]:
    (expected / name).mkdir(parents=True)
for i, ns in stamps(len(clouds)):
    rows = clouds[i]
    for name in ["points", "doubles", "big"]:
        rows.tofile(expected / name / f"{i}.bin")
    rows[: len(rows) // 2 * 2].tofile(expected / "rows" / f"{i}.bin")
    bytes_ = rows[:, :4].copy()
    bytes_[:, 3] = bytes_[:, 3].astype("u1")
    bytes_.tofile(expected / "xyzirc" / f"{i}.bin")
    newest(rows).tofile(expected / "tf" / f"{i}.bin")
    sweeps = [
        {"file": f"{k}.bin", "stamp_ns": STAMP + k * STEP, "pose": in_map(STAMP + k * STEP)}
        for k in range(i, max(i - 2, -1), -1)
    ]
    text = json.dumps({"layout": "xyzit", "sweeps": sweeps})
    (expected / "tf" / f"{i}.json").write_text(text)
