"""Writes point clouds with pypcd4 and NumPy, and the expected result of reading each of them.

    write_frames.py FOLDER REAL.pcd

Prints a line `FILE COLUMNS EXPECTED` for each file. EXPECTED contains the columns as little-endian
f32 rows. Also copies REAL.pcd if it exists. `skipped: …` lines report what was not possible.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

folder, real = Path(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(7)
N = 3000


def announce(file, columns, values):
    """Prints the line for `file`; `values` are its columns as one array each."""
    rows = np.stack([np.asarray(v) for v in values], axis=1).astype("<f4")
    expected = file + ".expected"
    rows.tofile(folder / expected)
    print(file, columns, expected)


xyz = [np.round(rng.uniform(-100, 100, N), 3) for _ in range(3)]
intensity = np.repeat(rng.integers(0, 256, N // 10), 10)

points = np.stack([*xyz, intensity], axis=1)
for name, array in {
    "c4": points.astype("<f4"),
    "c8": points.astype("<f8"),
    "be4": points.astype(">f4"),
    "be8": points.astype(">f8"),
    "f4": np.asfortranarray(points.astype("<f4")),
    "f8": np.asfortranarray(points.astype("<f8")),
    "empty": points[:0].astype("<f4"),
}.items():
    for version in [(1, 0), (2, 0), (3, 0)]:
        file = f"{name}_{version[0]}.npy"
        with open(folder / file, "wb") as out:
            np.lib.format.write_array(out, array, version=version)
        announce(file, "x,y,z,intensity", array.T)

for kind in ["f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]:
    for order in "<>":
        array = np.abs(points).astype(order + kind) if kind[0] == "u" else points.astype(order + kind)
        np.save(folder / f"{order == '<'}{kind}.npy", array)
        announce(f"{order == '<'}{kind}.npy", "x,y,z,intensity", array.T)

records = np.dtype(
    [("time", "<u8"), ("Z", "<f2"), ("x", ">f8"), ("rgb", "u1", (3,)), ("y", "<i2"), ("i", "u1"), ("name", "<U3")],
)
for name, dtype in {"packed": records, "aligned": np.dtype(records.descr, align=True)}.items():
    array = np.zeros(N, dtype)
    for field, values in {"Z": xyz[2], "x": xyz[0], "y": xyz[1], "i": intensity}.items():
        array[field] = values
    np.save(folder / f"{name}.npy", array)
    announce(f"{name}.npy", "z,x,y,intensity", [array[f] for f in ("Z", "x", "y", "i")])

try:
    from pypcd4 import Encoding, PointCloud
except ImportError as error:
    print("skipped: pypcd4 is not installed:", error)
    sys.exit()

ring = rng.integers(0, 128, N)
clock = rng.integers(0, 2**32, N)
layouts = {
    # Name: fields, types, arrays, columns to read, their indices.
    "plain": (("x", "y", "z", "intensity"), (np.float32,) * 4, [*xyz, intensity], "x,y,z,intensity", (0, 1, 2, 3)),
    "xyz": (("x", "y", "z"), (np.float32,) * 3, xyz, "x,y,z", (0, 1, 2)),
    "double": (("x", "y", "z", "i"), (np.float64,) * 4, [*xyz, intensity], "x,y,z,intensity", (0, 1, 2, 3)),
    "autoware": (
        ("x", "y", "z", "intensity", "return_type", "channel", "azimuth", "time_stamp"),
        (np.float32, np.float32, np.float32, np.uint8, np.uint8, np.uint16, np.float32, np.uint32),
        [*xyz, intensity, ring % 4, ring, xyz[0], clock],
        "x,y,z,intensity,ring",
        (0, 1, 2, 3, 5),
    ),
    "ouster": (
        ("t", "reflectivity", "ring", "x", "y", "z", "range"),
        (np.uint32, np.uint16, np.uint8, np.float32, np.float32, np.float32, np.uint32),
        [clock, intensity, ring, *xyz, clock],
        "intensity,ring,x,y,z",
        (1, 2, 3, 4, 5),
    ),
    "signed": (("x", "y", "z", "time_lag"), (np.int16, np.int8, np.int32, np.float64), [xyz[0], xyz[1], xyz[2] * 1e4, xyz[0] / 1e3], "x,y,z,t", (0, 1, 2, 3)),
}
for name, (fields, types, arrays, columns, read) in layouts.items():
    arrays = [np.asarray(a).astype(t) for a, t in zip(arrays, types)]
    cloud = PointCloud.from_points(arrays, fields, types)
    for encoding in [Encoding.ASCII, Encoding.BINARY, Encoding.BINARY_COMPRESSED]:
        file = f"{name}_{encoding.value}.pcd"
        cloud.save(folder / file, encoding=encoding)
        again = PointCloud.from_path(folder / file).pc_data
        announce(file, columns, [again[fields[i]] for i in read])

if real.exists():
    shutil.copy(real, folder / "real.pcd")
    again = PointCloud.from_path(real).pc_data
    announce("real.pcd", "x,y,z,intensity", [again[f] for f in ("x", "y", "z", "intensity")])
    PointCloud.from_path(real).save(folder / "packed.pcd", encoding=Encoding.BINARY_COMPRESSED)
    announce("packed.pcd", "x,y,z,intensity", [again[f] for f in ("x", "y", "z", "intensity")])
else:
    print("skipped:", real, "does not exist")
