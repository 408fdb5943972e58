"""Pillars and features of one frame with NumPy and ONNX Runtime, implemented from the rules alone.

usage: pfn_oracle.py PFE.onnx FRAME.bin OUT.bin  x0 y0 z0 x1 y1 z1  vx vy vz  max_points max_pillars

The frame has five f32 columns. The PFN reads these, xyz - mean and xy - centre, as [1, C, P, M].
OUT.bin: i32 number of pillars, then i32 y, x, count of each pillar, then the f32 features.
"""

import sys

import numpy as np
import onnxruntime

pfe, frame, out = sys.argv[1:4]
low, high, size = np.array(sys.argv[4:13], dtype=np.float32).reshape(3, 3)
max_points, max_pillars = int(sys.argv[13]), int(sys.argv[14])

points = np.fromfile(frame, dtype=np.float32).reshape(-1, 5)
nx, ny = np.round((high - low)[:2] / size[:2]).astype(int)
inside = np.all((points[:, :3] >= low) & (points[:, :3] < high), axis=1)
pillars = {}
for point in points[inside & np.all(np.isfinite(points), axis=1)]:
    x, y = np.floor((point[:2] - low[:2]) / size[:2]).astype(int)
    cell = (min(y, ny - 1), min(x, nx - 1))
    if cell not in pillars:
        if len(pillars) == max_pillars:
            continue
        pillars[cell] = []
    if len(pillars[cell]) < max_points:
        pillars[cell].append(point)

session = onnxruntime.InferenceSession(pfe, providers=["CPUExecutionProvider"])
shape = session.get_inputs()[0].shape
rows = np.zeros((shape[2], max_points, 10), dtype=np.float32)
for index, ((y, x), kept) in enumerate(pillars.items()):
    kept = np.array(kept)
    centre = np.array([x, y], dtype=np.float32) * size[:2] + size[:2] / 2 + low[:2]
    offsets = [kept, kept[:, :3] - kept[:, :3].mean(axis=0), kept[:, :2] - centre]
    rows[index, : len(kept)] = np.concatenate(offsets, axis=1)
(features,) = session.run(None, {"input.1": rows.transpose(2, 0, 1)[None]})
features = features.reshape(-1, shape[2])[:, : len(pillars)].T

with open(out, "wb") as file:
    np.int32(len(pillars)).tofile(file)
    for (y, x), kept in pillars.items():
        np.array([y, x, len(kept)], dtype=np.int32).tofile(file)
    np.ascontiguousarray(features, dtype=np.float32).tofile(file)
