"""CenterPoint-pillar in PyTorch: layers, architectures, and the export to two ONNX files.

Modules are named as in mmdetection3d (`pts_voxel_encoder`, `pts_backbone`, `pts_neck`,
`pts_bbox_head`), so the exported initializers have the same names as in files from mmdetection3d
and AWML.
Lengths are in metres. Head outputs are raw: heatmap logits, dim = log(l, w, h), rot = (sin, cos),
vel in m/s, reg = offset inside the cell in cells, height = z of the gravity centre.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

CLASSES = ("car", "truck", "bus", "bicycle", "pedestrian")
# Output order of the exported head, with channels. `heatmap` has one channel per class.
HEADS = {"heatmap": len(CLASSES), "reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
POINT_COLUMNS = 5  # x y z intensity t
FEATURES = POINT_COLUMNS + 3 + 3  # · xyz − mean · xyz − pillar centre
# Roughly the inverse standard deviation of each column on our scenes, see `ColumnScale`.
FEATURE_SCALE = (1 / 16, 1 / 16, 1, 5, 20, 10, 10, 2, 10, 10, 1)
BN_EPS = 1e-3
BN_MOMENTUM = 0.01


@dataclass(frozen=True)
class Arch:
    """Sizes of one CenterPoint-pillar variant."""

    name: str
    limits: tuple  # x, y, z minimum, then x, y, z maximum
    voxel: tuple  # x, y, z size of a pillar
    max_points: int  # rows per pillar
    max_pillars: int
    pfn: tuple  # feat_channels of the PFN layers
    channels: tuple  # SECOND, per block
    layers: tuple  # convolutions after the strided one, per block
    strides: tuple
    neck: int  # channels of each SECONDFPN branch
    upsample: tuple  # stride of each SECONDFPN branch
    shared: int
    head: int

    @property
    def grid(self):
        """Cells along x and along y."""
        return tuple(round((self.limits[3 + i] - self.limits[i]) / self.voxel[i]) for i in range(2))

    @property
    def head_stride(self):
        """Grid cells per head cell."""
        return self.strides[0] // self.upsample[0]


ARCHS = {
    "demo": Arch(
        name="demo",
        limits=(-51.2, -51.2, -3.0, 51.2, 51.2, 5.0),
        voxel=(0.4, 0.4, 8.0),
        max_points=20,
        max_pillars=20000,
        pfn=(32, 32),
        channels=(32, 64, 128),
        layers=(3, 3, 3),
        strides=(2, 2, 2),
        neck=32,
        upsample=(1, 2, 4),
        shared=32,
        head=32,
    ),
    # The size that Autoware deploys. Never trained here, only exported with random weights.
    "autoware-base": Arch(
        name="autoware-base",
        limits=(-76.8, -76.8, -3.0, 76.8, 76.8, 5.0),
        voxel=(0.32, 0.32, 8.0),
        max_points=32,
        max_pillars=40000,
        pfn=(32, 32),
        channels=(64, 128, 256),
        layers=(3, 5, 5),
        strides=(1, 2, 2),
        neck=128,
        upsample=(1, 2, 4),
        shared=64,
        head=64,
    ),
}


class PFNLayer(nn.Module):
    """Linear, BN, ReLU, max over the rows; all layers but the last append the max to each row."""

    def __init__(self, inputs, outputs, last):
        super().__init__()
        units = outputs if last else outputs // 2
        self.last = last
        self.linear = nn.Linear(inputs, units, bias=False)
        self.norm = nn.BatchNorm1d(units, eps=BN_EPS, momentum=BN_MOMENTUM)

    def forward(self, rows):
        """[P, M, inputs] → [P, M, outputs], or [P, 1, outputs] from the last layer."""
        rows = self.linear(rows)
        rows = self.norm(rows.permute(0, 2, 1).contiguous()).permute(0, 2, 1).contiguous()
        rows = F.relu(rows)
        top = rows.max(dim=1, keepdim=True)[0]
        if self.last:
            return top
        return torch.cat([rows, top.repeat(1, rows.shape[1], 1)], dim=2)

    def forward_ragged(self, rows, pillar, lengths):
        """The same for the concatenated rows of all pillars: [N, inputs] → [N or P, outputs]."""
        rows = F.relu(self.norm(self.linear(rows)))
        top = torch.segment_reduce(rows, "max", lengths=lengths, unsafe=True)
        return top if self.last else torch.cat([rows, top[pillar]], dim=1)


class ColumnScale(nn.Module):
    """Parametrises the first linear layer as if its input columns were normalised.

    x varies by 16 m and t by 0.05 s, and Adam moves all weights at one speed. Without this scale
    the network barely sees t and learns no velocity. `export` folds the scale into the weights.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(FEATURE_SCALE), persistent=False)

    def forward(self, weight):
        return weight * self.scale


class PillarFeatureNet(nn.Module):
    """The pillar encoder, on padded pillars (as deployed) or on ragged rows (for training)."""

    def __init__(self, arch):
        super().__init__()
        sizes = (FEATURES, *arch.pfn)
        last = len(arch.pfn) - 1
        self.pfn_layers = nn.ModuleList(
            PFNLayer(sizes[i], sizes[i + 1], i == last) for i in range(len(arch.pfn))
        )
        parametrize.register_parametrization(self.pfn_layers[0].linear, "weight", ColumnScale())

    def forward(self, rows):
        for layer in self.pfn_layers:
            rows = layer(rows)
        return rows

    def forward_ragged(self, rows, lengths):
        """[N, 11] rows in pillar order → [P, C].

        A pillar that is not full must end with one zero row, which stands for all its padding: the
        max includes the padding, and equal rows give one value. This costs a fifth of the padded
        form and gives the same result in eval mode. In training, BN statistics count the padding
        once per pillar.
        """
        pillar = torch.repeat_interleave(lengths)
        for layer in self.pfn_layers:
            rows = layer.forward_ragged(rows, pillar, lengths)
        return rows


def conv_bn(inputs, outputs, stride=1):
    """3×3 convolution without bias, BN, ReLU: the three modules of an mmdet `ConvModule`."""
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=BN_MOMENTUM),
        nn.ReLU(),
    ]


class Second(nn.Module):
    """SECOND backbone: blocks that start with a strided convolution; returns all outputs."""

    def __init__(self, arch):
        super().__init__()
        inputs = (arch.pfn[-1], *arch.channels[:-1])
        self.blocks = nn.ModuleList()
        for cin, cout, layers, stride in zip(inputs, arch.channels, arch.layers, arch.strides):
            modules = conv_bn(cin, cout, stride)
            for _ in range(layers):
                modules += conv_bn(cout, cout)
            self.blocks.append(nn.Sequential(*modules))

    def forward(self, x):
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs


class SecondFPN(nn.Module):
    """SECONDFPN neck with deconvolutions (`use_conv_for_no_stride=False`), concatenated."""

    def __init__(self, arch):
        super().__init__()
        self.deblocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(cin, arch.neck, stride, stride, bias=False),
                nn.BatchNorm2d(arch.neck, eps=BN_EPS, momentum=BN_MOMENTUM),
                nn.ReLU(),
            )
            for cin, stride in zip(arch.channels, arch.upsample)
        )

    def forward(self, inputs):
        return torch.cat([block(x) for block, x in zip(self.deblocks, inputs)], dim=1)


class ConvModule(nn.Module):
    """`conv_bn` with mmdet's member names."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn, self.activate = conv_bn(inputs, outputs)

    def forward(self, x):
        return self.activate(self.bn(self.conv(x)))


class CenterHead(nn.Module):
    """Shared convolution, then two convolutions per output."""

    def __init__(self, arch):
        super().__init__()
        self.shared_conv = ConvModule(len(arch.channels) * arch.neck, arch.shared)
        task = nn.ModuleDict(
            {
                name: nn.Sequential(
                    ConvModule(arch.shared, arch.head), nn.Conv2d(arch.head, outputs, 3, 1, 1)
                )
                for name, outputs in HEADS.items()
            }
        )
        self.task_heads = nn.ModuleList([task])
        # The prior of CornerNet: a cell holds a centre with probability 0.1.
        nn.init.constant_(task["heatmap"][1].bias, -2.19)

    def forward(self, x):
        x = self.shared_conv(x)
        task = self.task_heads[0]
        return tuple(task[name](x) for name in HEADS)

    def forward_at(self, x, centres):
        """Heatmap of all cells, and the other outputs [K, C] only at the flat cells, for training.

        The losses need only those cells, and the two convolutions see 5×5 cells around each. This
        saves a quarter of the network's time. BN then learns the statistics of objects.
        """
        x = self.shared_conv(x)
        task = self.task_heads[0]
        _, channels, height, width = x.shape
        padded = F.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1)
        frame, cell = centres // (height * width), centres % (height * width)
        side = torch.arange(5, device=x.device)
        ys = (cell // width)[:, None] + side
        xs = (cell % width)[:, None] + side
        patches = padded[frame[:, None, None], ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
        outputs = []
        for name in list(HEADS)[1:]:
            module, last = task[name]
            hidden = module.activate(module.bn(F.conv2d(patches, module.conv.weight)))
            outputs.append(F.conv2d(hidden, last.weight, last.bias).flatten(1))
        return task["heatmap"](x), torch.cat(outputs, dim=1)


class BackboneNeckHead(nn.Module):
    """The network in `pts_backbone_neck_head.onnx`."""

    def __init__(self, arch):
        super().__init__()
        self.pts_backbone = Second(arch)
        self.pts_neck = SecondFPN(arch)
        self.pts_bbox_head = CenterHead(arch)

    def forward(self, spatial_features, centres=None):
        x = self.pts_neck(self.pts_backbone(spatial_features))
        if centres is None:
            return self.pts_bbox_head(x)
        return self.pts_bbox_head.forward_at(x, centres)


class CenterPoint(nn.Module):
    """The whole detector, from feature rows to the six raw outputs."""

    def __init__(self, arch):
        super().__init__()
        self.arch = arch
        self.pts_voxel_encoder = PillarFeatureNet(arch)
        self.rpn = BackboneNeckHead(arch)
        for module in self.rpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # Start raw outputs near their bias; otherwise the first steps only undo the noise.
        for head in self.rpn.pts_bbox_head.task_heads[0].values():
            nn.init.normal_(head[1].weight, std=0.01)

    def scatter(self, features, cells, shape):
        """[P, C] features at flat cells (frame · H · W + y · W + x) → [frames, C, H, W]."""
        frames, height, width = shape
        canvas = features.new_zeros(frames * height * width, features.shape[1])
        canvas = canvas.index_copy(0, cells, features)
        # This view is already channels_last, which the convolutions prefer.
        return canvas.view(frames, height, width, -1).permute(0, 3, 1, 2)

    def forward(self, batch):
        """The six outputs for a `scenes.Batch`; with targets, those of `CenterHead.forward_at`."""
        # bf16 cannot resolve coordinates of 50 m, so the pillar encoder always runs in f32.
        device = batch.rows.device.type
        with torch.autocast(device, enabled=False):
            features = self.pts_voxel_encoder.forward_ragged(batch.rows, batch.lengths)
        if torch.is_autocast_enabled(device):
            features = features.to(torch.get_autocast_dtype(device))
        return self.rpn(self.scatter(features, batch.cells, batch.shape), batch.centres)


def macs(arch):
    """Multiply-accumulates of the backbone, neck and head for one frame."""
    total = 0

    def count(module, _, output):
        nonlocal total
        weight = module.weight
        if isinstance(module, nn.ConvTranspose2d):  # each output pixel sees one tap: k == stride
            total += output[0, 0].numel() * weight.shape[0] * weight.shape[1]
        else:
            total += output[0, 0].numel() * weight.numel()

    rpn = BackboneNeckHead(arch).eval()
    for module in rpn.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        rpn(torch.zeros(1, arch.pfn[-1], arch.grid[1], arch.grid[0]))
    return total


def randomise_statistics(model, seed):
    """Give an untrained model BN parameters and weights as varied as those of a trained one."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.3, 2.0)
    for head in model.rpn.pts_bbox_head.task_heads[0].values():
        spread = 1.0 / math.sqrt(head[1].weight[0].numel())
        nn.init.normal_(head[1].weight, std=spread, generator=generator)


def to_onnx(module, example, path, inputs, outputs, dynamic):
    """Export with the TorchScript exporter, as AWML does; keeps BN and parameter names."""
    buffer = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            module,
            (example,),
            buffer,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=17,
            # In eval mode the exporter would fold BN into the convolutions.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    # Remove source paths of the exporting machine.
    for node in graph.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    onnx.checker.check_model(graph, full_check=True)
    Path(path).write_bytes(graph.SerializeToString(deterministic=True))


def export(model, folder, samples):
    """Write the two ONNX files; return the largest absolute PyTorch − ONNX Runtime differences.

    Converts `model` to its deployed form: on the CPU, in eval mode, scales folded.
    `samples` holds at least one pair of pillar features [P, M, 11] and flat cells [P].
    """
    arch = model.arch
    model = model.cpu().float().to(memory_format=torch.contiguous_format).eval()
    parametrize.remove_parametrizations(model.pts_voxel_encoder.pfn_layers[0].linear, "weight")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pfe_path = folder / "pts_voxel_encoder.onnx"
    rpn_path = folder / "pts_backbone_neck_head.onnx"
    pillars = torch.zeros(100, arch.max_points, FEATURES)
    to_onnx(
        model.pts_voxel_encoder,
        pillars,
        pfe_path,
        ["input_features"],
        ["pillar_features"],
        {"input_features": {0: "num_voxels"}, "pillar_features": {0: "num_voxels"}},
    )
    canvas = torch.zeros(1, arch.pfn[-1], arch.grid[1], arch.grid[0])
    to_onnx(model.rpn, canvas, rpn_path, ["spatial_features"], list(HEADS), None)

    pfe = onnxruntime.InferenceSession(str(pfe_path), providers=["CPUExecutionProvider"])
    rpn = onnxruntime.InferenceSession(str(rpn_path), providers=["CPUExecutionProvider"])
    worst = dict.fromkeys(["pillar_features", *HEADS], 0.0)
    for rows, cells in samples:
        with torch.no_grad():
            features = model.pts_voxel_encoder(rows)
            spatial = model.scatter(features[:, 0], cells, (1, *arch.grid[::-1])).contiguous()
            expected = [features, *model.rpn(spatial)]
        actual = pfe.run(None, {"input_features": rows.numpy()})
        actual += rpn.run(None, {"spatial_features": spatial.numpy()})
        for name, a, b in zip(worst, expected, actual):
            worst[name] = max(worst[name], float(np.abs(a.numpy() - b).max()))
    return worst
