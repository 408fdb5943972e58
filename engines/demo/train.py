"""Train the demo model on synthetic scenes and export it to ONNX.

    cp-build synth --frames 6000 --seed 1       --out DATA/train
    cp-build synth --frames 500  --seed 1000001 --out DATA/val
    python train.py --data DATA --work RUN --minutes 90 --export engines/demo

Runs on CPU or CUDA. `--resume` continues an interrupted run, or only exports a finished one.
`--random --arch NAME --export DIR` writes an untrained model of any architecture. The learning
rate runs one cycle over the budget (minutes or steps, whichever ends first), so the model is
annealed when the budget is spent. RUN receives `checkpoint.pth` and `log.jsonl`; the export
consists of two ONNX files and `manifest.json`.

On a CPU, each core trains its share of the batch in its own process: on a busy 2-core machine a
step took 0.7 s with one thread and 3 s with two, because threads wait for each other in every
layer and processes only once per step.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import network
import scenes
import score

MAX_LR = 3e-3
WARM_UP = 0.2  # share of the budget during which the learning rate rises
WEIGHT_DECAY = 0.01
CLIP_NORM = 35.0
EMA_DECAY = 0.998
# mmdetection3d weights the velocity by a fifth of the other box values. Most objects stand still
# and L1 favours medians: with so small a weight, this short training never left "nothing moves".
BOX_WEIGHT = 0.25
CHECKPOINT_MINUTES = 3.0
VALIDATIONS = 10  # per run, on --val-frames frames


def focal_loss(logits, heatmap):
    """CornerNet's penalty-reduced focal loss, per positive cell."""
    positive = heatmap == 1
    p = torch.sigmoid(logits)
    hit = (1 - p) ** 2 * F.logsigmoid(logits)
    miss = (1 - heatmap) ** 4 * p**2 * F.logsigmoid(-logits)
    total = torch.where(positive, hit, miss).sum()
    return -total / positive.sum().clamp(min=1)


def box_loss(found, values):
    """L1 of outputs [K, 10] at the labelled cells, per box; ignores unknown velocities."""
    gap = (found - values.nan_to_num()).abs() * ~values.isnan()
    return gap.sum() / max(len(values), 1)


def one_cycle(progress):
    """(learning rate, Adam's first beta) at 0..1 of the budget."""
    if progress < WARM_UP:
        share = 0.5 - 0.5 * math.cos(math.pi * progress / WARM_UP)
        return MAX_LR * (0.1 + 0.9 * share), 0.95 - 0.1 * share
    share = 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
    return MAX_LR * (1e-4 + share), 0.95 - 0.1 * share


@torch.no_grad()
def running_average(averaged, current, count):
    """Move the averaged tensors towards the current ones, faster in the first steps."""
    weight = 1 - min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    if averaged[0].is_floating_point():
        torch._foreach_lerp_(averaged, current, weight)
    else:  # BN's batch counters
        for mine, theirs in zip(averaged, current):
            mine.copy_(theirs)


def infer(model, folder, device, count, exact=False):
    """Candidates before NMS and labels of the first `count` frames; `exact` computes in f32."""
    model.eval()
    found = []
    for index in range(min(count, len(folder))):
        batch = scenes.collate([(folder.points(index), None, model.arch)]).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=not exact):
            outputs = model(batch)
        found.append(score.decode([o[0].float().cpu().numpy() for o in outputs], model.arch))
    return found, folder.labels[: len(found)]


class Run:
    """State of one training as checkpointed: model, running average, optimizer and clock.

    Each process has its own. `rank` 0 also validates, logs and saves.
    """

    def __init__(self, args, device, rank):
        self.args, self.device, self.rank = args, device, rank
        torch.manual_seed(args.seed)
        model = network.CenterPoint(network.ARCHS[args.arch])
        self.model = model.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=running_average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=MAX_LR, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.state = {"step": 0, "minutes": 0.0, "progress": 0.0, "code": []}
        self.path = args.work / "checkpoint.pth"
        args.work.mkdir(parents=True, exist_ok=True)
        if args.resume:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.state = saved["state"]
        # A resumed run may continue with different code; the manifest lists both commits.
        code = {"from_step": self.state["step"], "commit": git_commit()}
        if not self.state["code"] or self.state["code"][-1]["commit"] != code["commit"]:
            if self.state["progress"] < 1.0:
                self.state["code"].append(code)

    def save(self):
        """Write the checkpoint; a crash midway leaves the old one intact."""
        scratch = self.path.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "state": self.state,
            },
            scratch,
        )
        scratch.replace(self.path)

    def log(self, **fields):
        clock = {"step": self.state["step"], "minutes": round(self.state["minutes"], 2)}
        line = json.dumps(clock | fields)
        print(line, flush=True)
        with open(self.args.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def synchronise(self, minutes):
        """Average gradients, BN statistics and the clock over the processes; return the clock."""
        if self.args.processes == 1:
            return minutes
        tensors = [p.grad for p in self.model.parameters()]
        tensors += [b for b in self.model.buffers() if b.is_floating_point()]
        flat = torch.cat([t.flatten() for t in tensors] + [torch.tensor([minutes])])
        distributed.all_reduce(flat)
        flat /= self.args.processes
        sizes = [t.numel() for t in tensors]
        with torch.no_grad():
            for tensor, mean in zip(tensors, flat[:-1].split(sizes)):
                tensor.copy_(mean.view_as(tensor))
        return float(flat[-1])

    def step(self, batch, began):
        """Take one optimizer step, advance the clock, return the detached focal and box losses."""
        rate, beta = one_cycle(self.state["progress"])
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (beta, 0.99)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, found = self.model(batch)
        focal = focal_loss(logits.float(), batch.heatmap)
        box = box_loss(found.float(), batch.values)
        self.optimizer.zero_grad(set_to_none=True)
        (focal + BOX_WEIGHT * box).backward()
        self.state["minutes"] = self.synchronise((time.monotonic() - began) / 60.0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        if self.rank == 0:
            self.average.update_parameters(self.model)
        self.state["step"] += 1
        done = max(self.state["step"] / self.args.steps, self.state["minutes"] / self.args.minutes)
        self.state["progress"] = min(done, 1.0)
        return torch.stack([focal.detach(), box.detach()])

    def train(self, train_set, val_set):
        """Train until the budget is spent."""
        args, state, arch = self.args, self.state, self.model.arch
        numbers = itertools.count(state["step"] * args.processes + self.rank, args.processes)
        share = args.batch // args.processes
        batches = scenes.training_batches(train_set, arch, share, args.seed, numbers)
        began = time.monotonic() - 60.0 * state["minutes"]
        saved_at, window, wait = state["minutes"], [], 0.0
        self.model.train()
        while state["progress"] < 1.0:
            asked = time.monotonic()
            batch = next(batches).to(self.device)
            wait += time.monotonic() - asked
            before = int(state["progress"] * VALIDATIONS)
            window.append(self.step(batch, began))
            finished = state["progress"] >= 1.0
            if self.rank > 0:
                continue
            if state["step"] % 100 == 0 or finished:
                focal, box = torch.stack(window).mean(dim=0).tolist()
                total = focal + BOX_WEIGHT * box
                state["losses"] = {"heatmap": focal, "box": box, "total": total}
                rounded = {name: round(value, 4) for name, value in state["losses"].items()}
                self.log(progress=round(state["progress"], 4), wait_s=round(wait, 1), **rounded)
                window, wait = [], 0.0
            if state["minutes"] - saved_at > CHECKPOINT_MINUTES or finished:
                self.save()
                saved_at = state["minutes"]
            if int(state["progress"] * VALIDATIONS) > before and not finished:
                found, labels = infer(self.average.module, val_set, self.device, args.val_frames)
                self.log(validation=score.evaluate(found, labels))


def file_facts(folder):
    """Size and SHA-256 of the exported files."""
    facts = {}
    for path in sorted(folder.glob("*.onnx")):
        data = path.read_bytes()
        facts[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return facts


def git_commit():
    """Commit of the training code, with `-dirty` if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_manifest(folder, **facts):
    modules = {"torch": torch, "numpy": np}
    modules |= {"onnx": network.onnx, "onnxruntime": network.onnxruntime}
    versions = {name: module.__version__ for name, module in modules.items()}
    facts |= {"versions": versions, "files": file_facts(folder)}
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def export_trained(run, train_set, val_set):
    """Score the averaged model on all validation frames, export it and write the manifest."""
    args, model = run.args, run.average.module
    found, labels = infer(model, val_set, run.device, len(val_set), exact=True)
    result = score.evaluate(found, labels)
    best = score.tune_radii(found, labels)
    run.log(final=result, best_radii=best)
    samples = [scenes.padded_features(val_set.points(i), model.arch) for i in range(8)]
    difference = network.export(model, args.export, samples)
    run.log(pytorch_minus_onnxruntime=difference)
    write_manifest(
        args.export,
        arch=args.arch,
        classes=list(network.CLASSES),
        seed=args.seed,
        train={"frames": len(train_set), **train_set.origin},
        validation={"frames": len(val_set), **val_set.origin},
        code=run.state["code"],
        device=run.device.type,
        batch=args.batch,
        steps=run.state["step"],
        minutes=round(run.state["minutes"], 1),
        losses=run.state["losses"],
        parameters=sum(p.numel() for p in model.parameters()),
        gmac=network.macs(model.arch) / 1e9,
        score_threshold=score.SCORE_THRESHOLD,
        circle_nms_radius=score.NMS_RADIUS,
        result=result,
        max_abs_pytorch_minus_onnxruntime=difference,
    )


def export_random(args):
    """Export an untrained model with varied BN statistics."""
    torch.manual_seed(args.seed)
    arch = network.ARCHS[args.arch]
    model = network.CenterPoint(arch)
    network.randomise_statistics(model, args.seed)
    rng = np.random.default_rng(args.seed)
    points = rng.uniform(-50, 50, (20000, scenes.POINT_COLUMNS)).astype(np.float32)
    points[:, 2:] = rng.uniform(0, 1, (20000, scenes.POINT_COLUMNS - 2))
    difference = network.export(model, args.export, [scenes.padded_features(points, arch)])
    print(json.dumps({"pytorch_minus_onnxruntime": difference, "files": file_facts(args.export)}))


def work(rank, args, meeting):
    """One training process of `args.processes`."""
    torch.set_num_threads(max(1, os.cpu_count() // args.processes))
    if args.processes > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=args.processes
        )
    train_set = scenes.SceneFolder(args.data / "train", args.train_frames)
    val_set = scenes.SceneFolder(args.data / "val")
    run = Run(args, torch.device(args.device), rank)
    run.train(train_set, val_set)
    if args.processes > 1:
        distributed.destroy_process_group()
    if rank == 0 and args.export:
        export_trained(run, train_set, val_set)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with train/ and val/ from cp-build synth")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint and the log")
    parser.add_argument("--minutes", type=float, default=math.inf, help="wall-clock budget")
    parser.add_argument("--steps", type=int, default=20000, help="budget in optimizer steps")
    parser.add_argument("--batch", type=int, default=8, help="frames per step, over all processes")
    parser.add_argument("--seed", type=int, default=1, help="for weights, order and augmentation")
    parser.add_argument("--processes", type=int, default=0, help="0: one per core, one on CUDA")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--train-frames", type=int, help="use only the first N training frames")
    parser.add_argument("--val-frames", type=int, default=100, help="frames per validation")
    parser.add_argument("--resume", action="store_true", help="continue from --work's checkpoint")
    parser.add_argument("--export", type=Path, help="folder for the ONNX files and the manifest")
    parser.add_argument("--arch", choices=sorted(network.ARCHS), default="demo")
    parser.add_argument("--random", action="store_true", help="export an untrained model and stop")
    args = parser.parse_args()
    if args.random:
        if not args.export:
            parser.error("--random needs --export")
        export_random(args)
        return
    if not (args.data and args.work):
        parser.error("training needs --data and --work")
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    args.device = "cuda" if cuda else "cpu"
    args.processes = args.processes or (1 if cuda else os.cpu_count())
    if args.batch % args.processes or (cuda and args.processes > 1):
        parser.error(f"{args.processes} processes cannot share a batch of {args.batch} here")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        torch.multiprocessing.spawn(work, (args, meeting), nprocs=args.processes)


if __name__ == "__main__":
    main()
