"""Gradients of a network with Q/DQ pairs, by PyTorch: compared with those of `build::train`.

    gradients.py FOLDER

FOLDER holds `quantized.onnx`, `float.onnx` (the float values of its weights), `input.f32` [frames, C, H, W],
`factors.f32` (of the shape of the output `out`) and `gradients.json` with the gradients by parameter name; `X.scale` is
that of the logarithm of the scale of tensor X. The loss is the sum of factor · out + out² / 2.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

folder = Path(sys.argv[1])
graph = onnx.load(folder / "quantized.onnx").graph
constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
floats = {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "float.onnx").graph.initializer}
params = {name: torch.tensor(value.copy(), requires_grad=True) for name, value in floats.items()}
scales = {}
shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:]
values = {graph.input[0].name: torch.from_numpy(np.fromfile(folder / "input.f32", "<f4")).view(-1, *shape)}


def tensor(name):
    return values.get(name, params.get(name))


for node in graph.node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    names = list(node.input)
    if node.op_type == "QuantizeLinear":
        # The pair is evaluated where it ends.
        values[node.output[0]] = (names[0], float(constants[names[1]]))
        continue
    if node.op_type == "DequantizeLinear":
        if names[0] in constants:
            weight = params[names[0].removesuffix("_quantized")]
            scale = torch.tensor(constants[names[1]])
            zeros = torch.zeros(len(scale), dtype=torch.int32)
            result = torch.fake_quantize_per_channel_affine(weight, scale, zeros, attributes["axis"], -127, 127)
        else:
            source, scale = values[names[0]]
            scale = scales.setdefault(source, torch.tensor([scale], requires_grad=True))
            result = torch._fake_quantize_learnable_per_tensor_affine(
                tensor(source), scale, torch.zeros(1), -128, 127, 1.0
            )
    elif node.op_type in ("Conv", "ConvTranspose"):
        x, weight = tensor(names[0]), tensor(names[1])
        bias = tensor(names[2]) if len(names) > 2 else None
        options = {"stride": attributes["strides"], "groups": attributes.get("group", 1)}
        if node.op_type == "Conv":
            result = torch.nn.functional.conv2d(x, weight, bias, padding=attributes["pads"][:2], **options)
        else:
            result = torch.nn.functional.conv_transpose2d(x, weight, bias, **options)
    elif node.op_type == "Relu":
        result = torch.relu(tensor(names[0]))
    elif node.op_type == "Add":
        result = tensor(names[0]) + tensor(names[1])
    elif node.op_type == "Concat":
        result = torch.cat([tensor(name) for name in names], 1)
    elif node.op_type == "DepthToSpace":
        assert attributes["mode"] == b"CRD"
        result = torch.pixel_shuffle(tensor(names[0]), attributes["blocksize"])
    else:
        raise SystemExit(f"unknown operator {node.op_type}")
    values[node.output[0]] = result

out = values["out"]
factors = torch.from_numpy(np.fromfile(folder / "factors.f32", "<f4")).view_as(out)
(factors * out + out * out / 2).sum().backward()
expected = {name: param.grad for name, param in params.items() if param.grad is not None}
for name, scale in scales.items():
    expected[f"{name}.scale"] = scale.grad * scale.detach()
found = json.loads((folder / "gradients.json").read_text())
assert set(expected) == set(found), set(expected) ^ set(found)
for name, gradient in expected.items():
    gradient = gradient.flatten().numpy().astype(np.float64)
    error = np.abs(gradient - np.array(found[name])).max() / np.abs(gradient).max()
    print(f"{name}: {gradient.size} values, largest error {error:.1e} of the largest")
    assert error < 1e-4, name
