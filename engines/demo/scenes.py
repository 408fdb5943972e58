"""Turns scenes on disk into training batches: reading, augmentation, pillars, targets.

`cp-build synth` writes the scene folders: `frames/NNNNNN.bin` with f32 little-endian rows
`x y z intensity t`, and `labels.json` in nuScenes style. x points forward, y left, z up; metres,
radians, seconds. Boxes are f32 rows `x y z l w h yaw vx vy`.
"""

import json
import queue
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from network import CLASSES, FEATURES, POINT_COLUMNS

# Gaussian radius on the heatmap, in head cells. mmdetection3d's gaussian_radius (overlap 0.1,
# at least 2) returns 2 for nearly every vehicle on 0.8 m cells. The runtime has no max-pool before
# its circle NMS, so the two small classes get a narrower peak, which leaves fewer duplicates.
RADIUS = {"car": 2, "truck": 2, "bus": 2, "bicycle": 1, "pedestrian": 1}


@dataclass
class Labels:
    """The labelled boxes of one frame."""

    boxes: np.ndarray  # [N, 9] x y z l w h yaw vx vy
    classes: np.ndarray  # [N] index into CLASSES
    points: np.ndarray  # [N] lidar points inside

    def select(self, mask):
        return Labels(self.boxes[mask], self.classes[mask], self.points[mask])


class SceneFolder:
    """Frames, labels and origin of one `cp-build synth` folder, ordered by name."""

    def __init__(self, folder, limit=None):
        self.folder = Path(folder)
        with open(self.folder / "labels.json", encoding="utf-8") as file:
            results = json.load(file)["results"]
        self.names = sorted(results)[:limit]
        self.labels = [parse_labels(results[name]) for name in self.names]
        with open(self.folder / "manifest.json", encoding="utf-8") as file:
            made = json.load(file)
        self.origin = {name: made[name] for name in ("generator", "seed", "config")}

    def __len__(self):
        return len(self.names)

    def points(self, index):
        """[N, 5] f32 points of one frame."""
        path = self.folder / "frames" / f"{self.names[index]}.bin"
        values = np.fromfile(path, dtype="<f4")
        if values.size % POINT_COLUMNS:
            raise ValueError(f"{path}: {values.size} floats, not a multiple of {POINT_COLUMNS}")
        return values.reshape(-1, POINT_COLUMNS)


def parse_labels(boxes):
    """nuScenes boxes (size w l h, rotation w x y z) → Labels."""
    rows = np.zeros((len(boxes), 9), np.float32)
    classes = np.zeros(len(boxes), np.int64)
    points = np.zeros(len(boxes), np.int64)
    for i, box in enumerate(boxes):
        w, length, h = box["size"]
        qw, qx, qy, qz = box["rotation"]
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        velocity = [v if v is not None else np.nan for v in box["velocity"]]
        rows[i] = [*box["translation"], length, w, h, yaw, *velocity]
        classes[i] = CLASSES.index(box["detection_name"])
        points[i] = box["num_pts"]
    return Labels(rows, classes, points)


def augment(points, boxes, rng):
    """Random flips, rotation, scale and shift of a whole scene; returns new arrays."""
    points, boxes = points.copy(), boxes.copy()
    for axis in (0, 1):
        if rng.random() < 0.5:
            points[:, axis] *= -1
            boxes[:, [axis, 7 + axis]] *= -1
            boxes[:, 6] = (np.pi if axis == 0 else 0.0) - boxes[:, 6]
    angle = rng.uniform(-np.pi / 8, np.pi / 8)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]], np.float32)
    scale = np.float32(rng.uniform(0.95, 1.05))
    shift = rng.normal(0.0, [0.4, 0.4, 0.1]).astype(np.float32)
    for rows in (points, boxes):
        rows[:, :2] = rows[:, :2] @ rotation
        rows[:, :3] = rows[:, :3] * scale + shift
    boxes[:, 7:9] = boxes[:, 7:9] @ rotation * scale
    boxes[:, 3:6] *= scale
    boxes[:, 6] += angle
    return points, boxes


def voxelise(points, arch):
    """Points → (kept points in pillar order, pillar length [P], flat cell y · W + x [P]).

    Deterministic, as in mmcv: a pillar keeps its first points in input order, pillars are numbered
    by their first point, and pillars beyond the limit are dropped.
    """
    low = np.array(arch.limits[:3], np.float32)
    high = np.array(arch.limits[3:], np.float32)
    xyz = points[:, :3]
    points = points[np.all((xyz >= low) & (xyz < high), axis=1)]
    width, height = arch.grid
    size = np.array(arch.voxel[:2], np.float32)
    index = np.floor((points[:, :2] - low[:2]) / size).astype(np.int32)
    index = np.minimum(index, np.array([width - 1, height - 1], np.int32))
    cell = index[:, 1] * width + index[:, 0]

    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    start = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]]) if cell.size else np.zeros(0, int)
    length = np.diff(np.r_[start, cell.size])
    number = np.argsort(order[start], kind="stable")[: arch.max_pillars]
    start, length = start[number], np.minimum(length[number], arch.max_points)
    rows = np.repeat(start - np.r_[0, np.cumsum(length)[:-1]], length) + np.arange(length.sum())
    return points[order[rows]], length, cell[start]


def ragged_features(points, arch):
    """Points → (rows [N, 11] f32, rows per pillar [P], flat cell [P]).

    A pillar that is not full ends with one zero row, see `PillarFeatureNet.forward_ragged`.
    """
    points, length, cell = voxelise(points, arch)
    width = arch.grid[0]
    first = np.r_[0, np.cumsum(length)[:-1]]
    pillar = np.repeat(np.arange(length.size), length)
    mean = np.zeros((0, 3), np.float32)
    if length.size:
        mean = np.add.reduceat(points[:, :3], first, axis=0) / length[:, None]
    low, size = np.array(arch.limits[:3], np.float32), np.array(arch.voxel, np.float32)
    index = np.stack([cell % width, cell // width, np.zeros_like(cell)], axis=1)
    centre = (size / 2 + index * size + low).astype(np.float32)
    padded = length + (length < arch.max_points)
    place = np.arange(points.shape[0]) + (np.r_[0, np.cumsum(padded)[:-1]] - first)[pillar]
    rows = np.zeros((padded.sum(), FEATURES), np.float32)
    rows[place] = np.concatenate(
        [points, points[:, :3] - mean[pillar], points[:, :3] - centre[pillar]], axis=1
    )
    return rows, padded, cell


def padded_features(points, arch):
    """Points → (input_features [P, M, 11], flat cell [P]), the deployed form of the rows."""
    rows, padded, cell = ragged_features(points, arch)
    pillar = np.repeat(np.arange(padded.size), padded)
    slot = np.arange(rows.shape[0]) - (np.cumsum(padded) - padded)[pillar]
    features = np.zeros((padded.size, arch.max_points, FEATURES), np.float32)
    features[pillar, slot] = rows
    return torch.from_numpy(features), torch.from_numpy(cell.astype(np.int64))


def targets(labels, arch):
    """Labels → (heatmap [classes, H, W], centre cells [K], regression targets [K, 10])."""
    width, height = (cells // arch.head_stride for cells in arch.grid)
    cell_size = np.array(arch.voxel[:2]) * arch.head_stride
    heatmap = np.zeros((len(CLASSES), height, width), np.float32)
    position = (labels.boxes[:, :2] - np.array(arch.limits[:2])) / cell_size
    index = np.floor(position).astype(np.int64)
    for (x, y), label in zip(index, labels.classes):
        radius = RADIUS[CLASSES[label]]
        # CornerNet: a window of 2r + 1 cells with sigma = (2r + 1) / 6.
        ys = np.arange(max(y - radius, 0), min(y + radius + 1, height))
        xs = np.arange(max(x - radius, 0), min(x + radius + 1, width))
        square = (ys[:, None] - y) ** 2 + (xs - x) ** 2
        window = heatmap[label, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        np.maximum(window, np.exp(-square * 18.0 / (2 * radius + 1) ** 2), out=window)
    boxes = labels.boxes
    values = np.concatenate(
        [
            position - index,
            boxes[:, 2:3],
            np.log(boxes[:, 3:6]),
            np.sin(boxes[:, 6:7]),
            np.cos(boxes[:, 6:7]),
            boxes[:, 7:9],
        ],
        axis=1,
    ).astype(np.float32)
    return heatmap, index[:, 1] * width + index[:, 0], values


@dataclass
class Batch:
    """Tensors of several frames; flat indices of centres and pillars include the frame."""

    shape: tuple  # frames, H, W of the pillar grid
    rows: torch.Tensor  # [N, 11]
    lengths: torch.Tensor  # [P]
    cells: torch.Tensor  # [P], frame · H · W + y · W + x
    heatmap: torch.Tensor | None = None  # [B, classes, H, W]
    centres: torch.Tensor | None = None  # [K], frame · H · W + y · W + x of the head's grid
    values: torch.Tensor | None = None  # [K, 10], order: reg height dim rot vel

    def to(self, device):
        def move(value):
            return value.to(device, non_blocking=True) if torch.is_tensor(value) else value

        return Batch(**{name: move(value) for name, value in vars(self).items()})


def collate(frames):
    """Batch of (points, labels or None, arch) triples whose grids have the same size."""
    width, height = frames[0][2].grid
    parts = [ragged_features(points, arch) for points, _, arch in frames]
    cells = [cell.astype(np.int64) + i * width * height for i, (_, _, cell) in enumerate(parts)]
    batch = Batch(
        shape=(len(frames), height, width),
        rows=torch.from_numpy(np.concatenate([rows for rows, _, _ in parts])),
        lengths=torch.from_numpy(np.concatenate([lengths for _, lengths, _ in parts])),
        cells=torch.from_numpy(np.concatenate(cells)),
    )
    if frames[0][1] is not None:
        goals = [targets(labels, arch) for _, labels, arch in frames]
        area = goals[0][0][0].size
        centres = [centre + i * area for i, (_, centre, _) in enumerate(goals)]
        batch.heatmap = torch.from_numpy(np.stack([heatmap for heatmap, _, _ in goals]))
        batch.centres = torch.from_numpy(np.concatenate(centres))
        batch.values = torch.from_numpy(np.concatenate([values for _, _, values in goals]))
    return batch


def crop(labels, arch, rng):
    """The architecture limited to half of its range in y, around a random labelled box.

    Most objects are along the road: half of the area, and thus of the time, covers 80 % of them.
    """
    unit = arch.voxel[1] * np.prod(arch.strides)  # whole cells of the coarsest map
    low, high = arch.limits[1], arch.limits[4]
    half = (high - low) / 2
    middle = rng.choice(labels.boxes[:, 1]) if len(labels.boxes) else 0.0
    start = np.clip(middle - rng.uniform(0, half), low, high - half)
    start = float(low + np.round((start - low) / unit) * unit)
    x0, _, z0, x1, _, z1 = arch.limits
    return replace(arch, limits=(x0, start, z0, x1, start + half, z1))


def training_frame(scenes, index, arch, rng):
    """One augmented and cropped frame with its learnable labels: those inside it with points."""

    def inside(labels, arch):
        xy = labels.boxes[:, :2]
        return labels.select(np.all((xy >= arch.limits[:2]) & (xy < arch.limits[3:5]), axis=1))

    labels = scenes.labels[index]
    points, boxes = augment(scenes.points(index), labels.boxes, rng)
    labels = Labels(boxes, labels.classes, labels.points).select(labels.points > 0)
    labels = inside(labels, arch)
    window = crop(labels, arch, rng)
    return points, inside(labels, window), window


def training_batches(scenes, arch, batch_size, seed, numbers):
    """Shuffled batches with the given numbers, prepared ahead of the caller by one thread.

    Batch n of a seed is always the same, so runs can be resumed and split over processes.
    """
    ready = queue.Queue(maxsize=3)
    per_epoch = len(scenes) // batch_size

    def produce():
        try:
            epoch, order = -1, None
            for number in numbers:
                if number // per_epoch != epoch:
                    epoch = number // per_epoch
                    order = np.random.default_rng([seed, 0, epoch]).permutation(len(scenes))
                at = number % per_epoch * batch_size
                rng = np.random.default_rng([seed, 1, number])
                chosen = order[at : at + batch_size]
                frames = [training_frame(scenes, i, arch, rng) for i in chosen]
                ready.put(collate(frames))
        except Exception as error:  # raised in the consumer, which would otherwise wait forever
            ready.put(error)

    threading.Thread(target=produce, daemon=True).start()
    while True:
        batch = ready.get()
        if isinstance(batch, Exception):
            raise batch
        yield batch
