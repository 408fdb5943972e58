"""Builds ONNX files from the tests' network descriptions and runs them with ONNX Runtime.

usage: onnx_reference.py run DIR

For each DIR/*.json: reads .constants.f32 and .input.f32, writes .onnx and .output.f32 (all outputs,
concatenated).
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def make(net, constants):
    """The ONNX model of a network description."""
    nodes, initializers = [], []

    def constant(name, place, shape):
        values = constants[place[0] : place[0] + place[1]].reshape(shape)
        initializers.append(numpy_helper.from_array(values, name))
        return name

    channels = {"input": net["input"][0]}
    for node in net["nodes"]:
        name, inputs, op = node["name"], list(node["inputs"]), node["op"]
        kind, a = (op, {}) if isinstance(op, str) else next(iter(op.items()))
        c = channels[inputs[0]]
        attributes, out = {}, c
        if kind in ("Conv", "ConvTranspose"):
            out, g = a["out"], a["groups"]
            rows = [out, c // g] if kind == "Conv" else [c, out // g]
            inputs.append(constant(name + ".weight", a["weight"], rows + a["kernel"]))
            if a["bias"] is not None:
                inputs.append(constant(name + ".bias", a["bias"], [out]))
            attributes = dict(
                kernel_shape=a["kernel"], strides=a["stride"], pads=a["pad"],
                dilations=a["dilation"], group=g,
            )
            if kind == "ConvTranspose":
                attributes["output_padding"] = a["output_padding"]
        elif kind == "BatchNormalization":
            inputs.append(constant(name + ".scale", a["scale"], [c]))
            inputs.append(constant(name + ".shift", a["shift"], [c]))
            for stem, value in (("mean", 0), ("var", 1)):
                values = np.full(c, value, np.float32)
                initializers.append(numpy_helper.from_array(values, f"{name}.{stem}"))
                inputs.append(f"{name}.{stem}")
            attributes = dict(epsilon=0.0)
        elif kind == "Concat":
            attributes, out = dict(axis=1), sum(channels[x] for x in inputs)
        elif kind == "DepthToSpace":
            attributes = dict(blocksize=a["block"], mode="CRD" if a["crd"] else "DCR")
            out = c // a["block"] ** 2
        elif kind == "MaxPool":
            attributes = dict(kernel_shape=a["kernel"], strides=a["stride"], pads=a["pad"])
        channels[name] = out
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "test",
        [value("input", TensorProto.FLOAT, [1] + net["input"])],
        [value(name, TensorProto.FLOAT, None) for name in net["outputs"]],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(folder):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        net = json.loads(path.read_text())
        constants = np.fromfile(path.with_suffix(".constants.f32"), np.float32)
        path.with_suffix(".onnx").write_bytes(make(net, constants).SerializeToString())
        x = np.fromfile(path.with_suffix(".input.f32"), np.float32).reshape([1] + net["input"])
        session = onnxruntime.InferenceSession(
            str(path.with_suffix(".onnx")), options, providers=["CPUExecutionProvider"]
        )
        outputs = session.run(net["outputs"], {"input": x})
        np.concatenate([y.ravel() for y in outputs]).tofile(path.with_suffix(".output.f32"))


if __name__ == "__main__":
    {"run": run}[sys.argv[1]](*sys.argv[2:])
