"""Decoding, circle NMS and nuScenes average precision in NumPy, for validation.

Follows the runtime (`spec`: best class per cell, no max-pool, circle NMS per class) and
nuscenes-devkit's detection metric. Distances in metres, velocities in m/s.
"""

from dataclasses import dataclass

import numpy as np

from network import CLASSES

DISTANCES = (0.5, 1.0, 2.0, 4.0)
CLASS_RANGE = {"car": 50.0, "truck": 50.0, "bus": 50.0, "bicycle": 40.0, "pedestrian": 40.0}
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
# Smallest distance between two kept centres of a class, the same as in `model.toml`. Chosen on the
# validation scenes: for cars and larger the widest one that costs at most 0.01 of AP.
NMS_RADIUS = {"car": 1.6, "truck": 2.0, "bus": 2.5, "bicycle": 0.6, "pedestrian": 0.4}
SCORE_THRESHOLD = 0.1
MAX_CANDIDATES = 500


@dataclass
class Detections:
    """Boxes of one frame by descending score: rows x y z l w h yaw vx vy."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def select(self, index):
        return Detections(self.boxes[index], self.classes[index], self.scores[index])


def decode(outputs, arch, threshold=SCORE_THRESHOLD):
    """Raw outputs of one frame, each [C, H, W] → at most 500 candidates, best class per cell."""
    heatmap, reg, height, dim, rot, vel = outputs
    width = heatmap.shape[2]
    logits = heatmap.reshape(len(CLASSES), -1)
    best = logits.argmax(axis=0)
    scores = 1.0 / (1.0 + np.exp(-logits.max(axis=0)))
    cells = np.flatnonzero(scores >= threshold)
    cells = cells[np.argsort(-scores[cells], kind="stable")][:MAX_CANDIDATES]

    def at(output):
        return output.reshape(output.shape[0], -1)[:, cells].T

    step = np.array(arch.voxel[:2]) * arch.head_stride
    grid = np.stack([cells % width, cells // width], axis=1)
    centre = (grid + at(reg)) * step + np.array(arch.limits[:2])
    sin, cos = at(rot).T
    yaw = np.arctan2(sin, cos)[:, None]
    boxes = np.concatenate([centre, at(height), np.exp(at(dim)), yaw, at(vel)], axis=1)
    return Detections(boxes, best[cells], scores[cells])


def circle_nms(detections, radii):
    """Drop boxes closer than the class radius to a better box of their class."""
    keep = np.ones(detections.scores.size, bool)
    for label, name in enumerate(CLASSES):
        index = np.flatnonzero(detections.classes == label)
        centres = detections.boxes[index, :2]
        gap = np.linalg.norm(centres[:, None] - centres[None], axis=2)
        for i in range(index.size):
            if keep[index[i]]:
                keep[index[i + 1 :][gap[i, i + 1 :] < radii[name]]] = False
    return detections.select(keep)


def average_precision(frames, label, distance):
    """Devkit AP of one class at one distance, and the matched (prediction, truth) pairs.

    `frames` holds (Detections, truth boxes [N, 9], truth classes [N]), already limited by range.
    """
    scores, owners, boxes, truths = [], [], [], []
    for frame, (found, truth, classes) in enumerate(frames):
        mine = found.classes == label
        scores.append(found.scores[mine])
        boxes.append(found.boxes[mine])
        owners.append(np.full(mine.sum(), frame))
        truths.append(truth[classes == label])
    total = sum(len(truth) for truth in truths)
    scores, owners, boxes = map(np.concatenate, (scores, owners, boxes))
    if total == 0 or scores.size == 0:
        return 0.0, []
    taken = [np.zeros(len(truth), bool) for truth in truths]
    order = np.argsort(scores, kind="stable")[::-1]
    hit = np.zeros(order.size, bool)
    pairs = []
    for rank, i in enumerate(order):
        truth, used = truths[owners[i]], taken[owners[i]]
        if used.all():
            continue
        gap = np.where(used, np.inf, np.linalg.norm(truth[:, :2] - boxes[i, :2], axis=1))
        nearest = gap.argmin()
        if gap[nearest] < distance:
            used[nearest] = True
            hit[rank] = True
            pairs.append((boxes[i], truth[nearest]))
    if not hit.any():
        return 0.0, []
    true_positives = np.cumsum(hit)
    precision = true_positives / np.arange(1, hit.size + 1)
    recall = true_positives / total
    curve = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
    curve = np.clip(curve[round(100 * MIN_RECALL) + 1 :] - MIN_PRECISION, 0, None)
    return float(curve.mean() / (1 - MIN_PRECISION)), pairs


def within_range(boxes, classes):
    """Which boxes lie inside the evaluation range of their class."""
    limit = np.array([CLASS_RANGE[name] for name in CLASSES])
    return np.linalg.norm(boxes[:, :2], axis=1) < limit[classes]


def evaluate(candidates, labels, radii=None):
    """mAP of decoded candidates (one Detections per frame) against labels with points.

    Returns a dict of AP per class and distance, AP per class, mAP, and mean errors at 2 m.
    """
    radii = radii or NMS_RADIUS
    frames = []
    for found, truth in zip(candidates, labels):
        found = circle_nms(found, radii)
        found = found.select(within_range(found.boxes, found.classes))
        truth = truth.select(within_range(truth.boxes, truth.classes) & (truth.points > 0))
        frames.append((found, truth.boxes, truth.classes))
    result = {"ap_by_distance": {}, "ap": {}, "errors": {}}
    for label, name in enumerate(CLASSES):
        curve = {}
        for distance in DISTANCES:
            curve[str(distance)], pairs = average_precision(frames, label, distance)
            if distance == 2.0 and pairs:
                result["errors"][name] = mean_errors(pairs)
        result["ap_by_distance"][name] = curve
        result["ap"][name] = float(np.mean(list(curve.values())))
    result["map"] = float(np.mean(list(result["ap"].values())))
    return result


def mean_errors(pairs):
    """Mean translation (m), yaw (rad) and velocity (m/s) errors of matched pairs."""
    found, truth = (np.array(side, np.float64) for side in zip(*pairs))
    turn = (found[:, 6] - truth[:, 6] + np.pi) % (2 * np.pi) - np.pi
    return {
        "translation": float(np.linalg.norm(found[:, :2] - truth[:, :2], axis=1).mean()),
        "yaw": float(np.abs(turn).mean()),
        "velocity": float(np.nanmean(np.linalg.norm(found[:, 7:9] - truth[:, 7:9], axis=1))),
    }


def tune_radii(candidates, labels, choices=(0.25, 0.4, 0.6, 0.85, 1.2, 1.6, 2.0, 3.0, 4.0, 5.0)):
    """The circle NMS radius per class with the best AP; the larger one of equals."""
    tables = {r: evaluate(candidates, labels, dict.fromkeys(CLASSES, r))["ap"] for r in choices}
    return {name: max(choices, key=lambda r: (tables[r][name], r)) for name in CLASSES}
